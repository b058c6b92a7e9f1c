//! How a typed value reads from JSON, writes to JSON and describes itself: one declaration serves all three.
//!
//! serde's derives would read and write as well, but they cannot say what QEMU says when an argument is wrong (the full name of the
//! member, `Invalid parameter type for 'addr.port', expected: string`), and they have no introspection.

use crate::error::QmpError;
use crate::schema::{Schema, SchemaMember};
use serde_json::{Map, Value};
use std::fmt;

/// Where in the arguments a value stands; its text is the name that error messages use.
#[derive(Clone, Copy)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Member(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    /// The arguments object itself.
    pub const ROOT: Path<'static> = Path {
        parent: None,
        step: Step::Root,
    };

    /// The member `name` of this object.
    pub fn member(&'a self, name: &'a str) -> Path<'a> {
        Path {
            parent: Some(self),
            step: Step::Member(name),
        }
    }

    /// The member's name, without the way to it; "null", as QEMU writes it, for what has no name of its own.
    pub fn name(&self) -> &'a str {
        match self.step {
            Step::Member(name) => name,
            Step::Root | Step::Index(_) => "null",
        }
    }

    /// The element `index` of this array.
    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path {
            parent: Some(self),
            step: Step::Index(index),
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.parent, self.step) {
            (_, Step::Root) | (None, _) => Ok(()),
            (Some(parent), Step::Member(name)) => match parent.step {
                Step::Root => f.write_str(name),
                _ => write!(f, "{parent}.{name}"),
            },
            (Some(parent), Step::Index(index)) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// A type of the protocol.
pub trait QapiType: Sized {
    /// The name of this type in introspection; enters its definition in `schema` when it has one.
    fn describe(schema: &mut Schema) -> String;

    /// Reads the value that stands at `at`.
    ///
    /// # Errors
    /// A wrong type, a wrong value, a missing or an unexpected member, in QEMU's words.
    fn decode(value: Value, at: &Path<'_>) -> Result<Self, QmpError>;

    /// The value as JSON.
    fn encode(&self) -> Value;

    /// What an absent member means; `None` where the member is mandatory.
    fn absent() -> Option<Self> {
        None
    }

    /// The value as a member of an object; `None` leaves the member out.
    fn encode_member(&self) -> Option<Value> {
        Some(self.encode())
    }
}

/// An arguments object that is being taken apart.
pub struct Members<'a> {
    object: Map<String, Value>,
    at: &'a Path<'a>,
}

impl<'a> Members<'a> {
    /// Opens the object that stands at `at`.
    ///
    /// # Errors
    /// The value is no object.
    pub fn open(value: Value, at: &'a Path<'a>) -> Result<Self, QmpError> {
        match value {
            Value::Object(object) => Ok(Self { object, at }),
            _ => Err(QmpError::invalid_type(&at.to_string(), "object")),
        }
    }

    /// Takes the member `name` out.
    ///
    /// # Errors
    /// It is missing though mandatory, or of a wrong type.
    pub fn take<T: QapiType>(&mut self, name: &str) -> Result<T, QmpError> {
        let at = self.at.member(name);
        match self.object.shift_remove(name) {
            Some(value) => T::decode(value, &at),
            None => T::absent().ok_or_else(|| QmpError::missing(&at.to_string())),
        }
    }

    /// Takes all members that are left, for a command whose members depend on one of them.
    pub fn rest(&mut self) -> Map<String, Value> {
        std::mem::take(&mut self.object)
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// A member was not taken: `Parameter 'x' is unexpected`.
    pub fn finish(self) -> Result<(), QmpError> {
        match self.object.keys().next() {
            Some(name) => Err(QmpError::unexpected(&self.at.member(name).to_string())),
            None => Ok(()),
        }
    }
}

impl QapiType for bool {
    fn describe(schema: &mut Schema) -> String {
        schema.builtin("bool", "boolean")
    }
    fn decode(value: Value, at: &Path<'_>) -> Result<Self, QmpError> {
        value
            .as_bool()
            .ok_or_else(|| QmpError::invalid_type(&at.to_string(), "boolean"))
    }
    fn encode(&self) -> Value {
        Value::Bool(*self)
    }
}

impl QapiType for String {
    fn describe(schema: &mut Schema) -> String {
        schema.builtin("str", "string")
    }
    fn decode(value: Value, at: &Path<'_>) -> Result<Self, QmpError> {
        match value {
            Value::String(text) => Ok(text),
            _ => Err(QmpError::invalid_type(&at.to_string(), "string")),
        }
    }
    fn encode(&self) -> Value {
        Value::String(self.clone())
    }
}

impl QapiType for f64 {
    fn describe(schema: &mut Schema) -> String {
        schema.builtin("number", "number")
    }
    fn decode(value: Value, at: &Path<'_>) -> Result<Self, QmpError> {
        value
            .as_f64()
            .ok_or_else(|| QmpError::invalid_type(&at.to_string(), "number"))
    }
    fn encode(&self) -> Value {
        serde_json::Number::from_f64(*self).map_or(Value::Null, Value::Number)
    }
}

macro_rules! integers {
    ($($ty:ty => $range:literal, $wrong_type:expr;)*) => {$(
        impl QapiType for $ty {
            fn describe(schema: &mut Schema) -> String {
                schema.builtin("int", "int")
            }
            fn decode(value: Value, at: &Path<'_>) -> Result<Self, QmpError> {
                let wide = match &value {
                    Value::Number(number) => number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from)),
                    _ => None,
                };
                let wide = wide.ok_or_else(|| $wrong_type(&at.to_string()))?;
                <$ty>::try_from(wide).map_err(|_| QmpError::invalid_value(&at.to_string(), $range))
            }
            fn encode(&self) -> Value {
                Value::from(*self)
            }
        }
    )*};
}

fn no_integer(name: &str) -> QmpError {
    QmpError::invalid_type(name, "integer")
}

/// QEMU reads every unsigned member as 64 bits first, and says so.
fn no_unsigned(name: &str) -> QmpError {
    QmpError::invalid_value(name, "uint64")
}

integers! {
    u8 => "uint8_t", no_unsigned;
    u16 => "uint16_t", no_unsigned;
    u32 => "uint32_t", no_unsigned;
    u64 => "uint64", no_unsigned;
    i32 => "int32_t", no_integer;
    i64 => "int64", no_integer;
}

/// A value of any type, where the type depends on something else (`qom-get`).
impl QapiType for Value {
    fn describe(schema: &mut Schema) -> String {
        schema.builtin("any", "value")
    }
    fn decode(value: Value, _at: &Path<'_>) -> Result<Self, QmpError> {
        Ok(value)
    }
    fn encode(&self) -> Value {
        self.clone()
    }
}

/// Nothing: the empty object.
impl QapiType for () {
    fn describe(schema: &mut Schema) -> String {
        schema.object("q_empty", |_| Vec::new())
    }
    fn decode(value: Value, at: &Path<'_>) -> Result<Self, QmpError> {
        Members::open(value, at)?.finish()
    }
    fn encode(&self) -> Value {
        Value::Object(Map::new())
    }
}

impl<T: QapiType> QapiType for Option<T> {
    fn describe(schema: &mut Schema) -> String {
        T::describe(schema)
    }
    fn decode(value: Value, at: &Path<'_>) -> Result<Self, QmpError> {
        T::decode(value, at).map(Some)
    }
    fn encode(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::encode)
    }
    fn absent() -> Option<Self> {
        Some(None)
    }
    fn encode_member(&self) -> Option<Value> {
        self.as_ref().map(T::encode)
    }
}

impl<T: QapiType> QapiType for Box<T> {
    fn describe(schema: &mut Schema) -> String {
        T::describe(schema)
    }
    fn decode(value: Value, at: &Path<'_>) -> Result<Self, QmpError> {
        T::decode(value, at).map(Box::new)
    }
    fn encode(&self) -> Value {
        T::encode(self)
    }
}

impl<T: QapiType> QapiType for Vec<T> {
    fn describe(schema: &mut Schema) -> String {
        let element = T::describe(schema);
        schema.array(&element)
    }
    fn decode(value: Value, at: &Path<'_>) -> Result<Self, QmpError> {
        let Value::Array(elements) = value else {
            return Err(QmpError::invalid_type(&at.to_string(), "array"));
        };
        elements
            .into_iter()
            .enumerate()
            .map(|(i, element)| T::decode(element, &at.index(i)))
            .collect()
    }
    fn encode(&self) -> Value {
        Value::Array(self.iter().map(T::encode).collect())
    }
}

/// A string, or null to say "none" (`tls-creds` and its like).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StrOrNull {
    /// A string.
    Str(String),
    /// Null.
    Null,
}

impl QapiType for StrOrNull {
    fn describe(schema: &mut Schema) -> String {
        let text = String::describe(schema);
        let null = schema.builtin("null", "null");
        schema.alternate("StrOrNull", &[text, null])
    }
    fn decode(value: Value, at: &Path<'_>) -> Result<Self, QmpError> {
        match value {
            Value::String(text) => Ok(Self::Str(text)),
            Value::Null => Ok(Self::Null),
            _ => Err(QmpError::invalid_type(&at.to_string(), "StrOrNull")),
        }
    }
    fn encode(&self) -> Value {
        match self {
            Self::Str(text) => Value::String(text.clone()),
            Self::Null => Value::Null,
        }
    }
}

/// The introspection entry of one member of type `T`.
pub fn describe_member<T: QapiType>(schema: &mut Schema, name: &'static str) -> SchemaMember {
    SchemaMember {
        name,
        type_name: T::describe(schema),
        optional: T::absent().is_some(),
    }
}

/// Declares a struct of the protocol: each member with its name on the wire. A member of type `Option` is left out when `None`.
macro_rules! qapi_struct {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( $(#[doc = $about:literal])* $field:ident : $ty:ty = $wire:literal, )*
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $( $(#[doc = $about])* pub $field: $ty, )*
        }

        impl $name {
            /// The names of the members on the wire.
            pub const MEMBERS: &'static [&'static str] = &[$( $wire, )*];
            /// What each is, for a person.
            pub const ABOUT: &'static [&'static str] = &[$( concat!($($about),*), )*];

            /// The members as introspection tells of them; enters their types.
            pub fn schema_members(_schema: &mut $crate::schema::Schema) -> Vec<$crate::schema::SchemaMember> {
                vec![$( $crate::qapi::describe_member::<$ty>(_schema, $wire), )*]
            }
        }

        impl $crate::qapi::QapiType for $name {
            fn describe(schema: &mut $crate::schema::Schema) -> String {
                schema.object(stringify!($name), Self::schema_members)
            }
            fn decode(value: serde_json::Value, at: &$crate::qapi::Path<'_>) -> Result<Self, $crate::error::QmpError> {
                let mut members = $crate::qapi::Members::open(value, at)?;
                let decoded = Self { $( $field: members.take($wire)?, )* };
                members.finish()?;
                Ok(decoded)
            }
            fn encode(&self) -> serde_json::Value {
                let mut object = serde_json::Map::new();
                $(
                    if let Some(value) = self.$field.encode_member() {
                        object.insert($wire.to_owned(), value);
                    }
                )*
                serde_json::Value::Object(object)
            }
        }
    )*};
}
pub(crate) use qapi_struct;

/// Declares an enumeration of the protocol: each value with its name on the wire.
macro_rules! qapi_enum {
    ($(
        $(#[$meta:meta])*
        pub enum $name:ident {
            $( $(#[$vmeta:meta])* $variant:ident = $wire:literal, )*
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $( $(#[$vmeta])* $variant, )*
        }

        impl $name {
            /// Every value, in the order of the declaration.
            pub const ALL: &'static [Self] = &[$( Self::$variant, )*];

            /// The name on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $wire, )* }
            }

            /// The value of that name on the wire, if there is one.
            pub fn from_wire(name: &str) -> Option<Self> {
                match name { $( $wire => Some(Self::$variant), )* _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl $crate::qapi::QapiType for $name {
            fn describe(schema: &mut $crate::schema::Schema) -> String {
                schema.enumeration(stringify!($name), &[$( $wire, )*])
            }
            fn decode(value: serde_json::Value, at: &$crate::qapi::Path<'_>) -> Result<Self, $crate::error::QmpError> {
                let serde_json::Value::String(text) = value else {
                    return Err($crate::error::QmpError::invalid_type(&at.to_string(), "string"));
                };
                Self::from_wire(&text).ok_or_else(|| $crate::error::QmpError::not_accepted(at.name(), &text))
            }
            fn encode(&self) -> serde_json::Value {
                serde_json::Value::String(self.as_str().to_owned())
            }
        }
    )*};
}
pub(crate) use qapi_enum;
