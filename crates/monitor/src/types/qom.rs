//! The object tree: what it holds, which types there are, which properties they have.

use crate::error::QmpError;
use crate::qapi::{Members, Path, QapiType, describe_member, qapi_struct};
use crate::schema::Schema;
use serde_json::{Map, Value};

qapi_struct! {
    /// One property of an object or of a type.
    pub struct ObjectPropertyInfo {
        /// Its name.
        name: String = "name",
        /// Its type; `child<TYPE>` for a child, `link<TYPE>` for a link.
        kind: String = "type",
        /// What it is for.
        description: Option<String> = "description",
        /// What it is when not given.
        default_value: Option<Value> = "default-value",
    }

    /// One type of `qom-list-types`.
    pub struct ObjectTypeInfo {
        /// Its name.
        name: String = "name",
        /// It has no instances of its own.
        is_abstract: Option<bool> = "abstract",
        /// The type it derives from.
        parent: Option<String> = "parent",
    }

    /// A property with its value, for `info qtree`.
    pub struct QtreeProperty {
        /// Its name.
        name: String = "name",
        /// Its value, for a person.
        value: String = "value",
    }

    /// A device in the tree of buses.
    pub struct QtreeDevice {
        /// Its driver.
        driver: String = "driver",
        /// Its id, empty where it has none.
        id: String = "id",
        /// Its properties.
        properties: Vec<QtreeProperty> = "properties",
        /// The buses it provides.
        buses: Vec<QtreeBus> = "buses",
    }

    /// A bus and what is on it.
    pub struct QtreeBus {
        /// Its name.
        name: String = "name",
        /// Its kind, as `PCIE`.
        kind: String = "type",
        /// Its devices.
        devices: Vec<QtreeDevice> = "devices",
    }
}

/// How the values of an open-ended object were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Syntax {
    /// QMP: JSON, with JSON's types.
    Json,
    /// HMP: `key=value`, every value a string.
    KeyValue,
}

/// A device, a netdev or an object as it is asked for: one member says which kind, and that kind decides on the others.
///
/// The kind's declared properties live elsewhere, so the others are handed on as they came, in their order, to be checked there.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenOptions<K: OptionKind> {
    /// The kind: the driver, the netdev's type, the object's type.
    pub kind: String,
    /// All other members, `id` among them.
    pub members: Map<String, Value>,
    /// How they were written.
    pub syntax: Syntax,
    /// What sort of thing it is.
    pub sort: std::marker::PhantomData<K>,
}

/// What tells the three open-ended objects apart.
pub trait OptionKind {
    /// The member that says the kind.
    const KIND: &'static str;
    /// The name of the argument type in introspection.
    const TYPE_NAME: &'static str;
    /// The members that introspection tells of besides the kind.
    fn members(schema: &mut Schema) -> Vec<crate::schema::SchemaMember>;
    /// The type of the kind's member in introspection.
    fn kind_type(schema: &mut Schema) -> String {
        String::describe(schema)
    }
    /// The further members of each kind, for introspection; none where they are open.
    fn variants(_schema: &mut Schema) -> Vec<(&'static str, String)> {
        Vec::new()
    }
    /// Checks what a client of QMP wrote, where the types of the members are known here.
    ///
    /// # Errors
    /// A member of a wrong type, one too many or too few.
    fn check(_kind: &str, _members: &Map<String, Value>) -> Result<(), QmpError> {
        Ok(())
    }
}

/// The arguments of `device_add`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceKind;
/// The arguments of `netdev_add`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetdevKind;
/// The arguments of `object-add`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectKind;

impl OptionKind for DeviceKind {
    const KIND: &'static str = "driver";
    const TYPE_NAME: &'static str = "q_obj_device_add-arg";
    fn members(schema: &mut Schema) -> Vec<crate::schema::SchemaMember> {
        vec![
            describe_member::<Option<String>>(schema, "bus"),
            describe_member::<Option<String>>(schema, "id"),
        ]
    }
}

impl OptionKind for NetdevKind {
    const KIND: &'static str = "type";
    const TYPE_NAME: &'static str = "Netdev";
    fn members(schema: &mut Schema) -> Vec<crate::schema::SchemaMember> {
        vec![describe_member::<String>(schema, "id")]
    }
    fn kind_type(schema: &mut Schema) -> String {
        schema.netdev_types()
    }
    fn variants(schema: &mut Schema) -> Vec<(&'static str, String)> {
        schema.netdev_variants()
    }
    fn check(kind: &str, members: &Map<String, Value>) -> Result<(), QmpError> {
        super::netdev::check_netdev(kind, members)
    }
}

impl OptionKind for ObjectKind {
    const KIND: &'static str = "qom-type";
    const TYPE_NAME: &'static str = "ObjectOptions";
    fn members(schema: &mut Schema) -> Vec<crate::schema::SchemaMember> {
        vec![describe_member::<String>(schema, "id")]
    }
    fn kind_type(schema: &mut Schema) -> String {
        schema.object_types()
    }
}

impl<K: OptionKind> OpenOptions<K> {
    /// The options of a kind with its other members.
    pub fn new(kind: impl Into<String>, members: Map<String, Value>, syntax: Syntax) -> Self {
        Self {
            kind: kind.into(),
            members,
            syntax,
            sort: std::marker::PhantomData,
        }
    }

    /// The member `id`, when it is a string.
    pub fn id(&self) -> Option<&str> {
        self.members.get("id").and_then(Value::as_str)
    }
}

impl<K: OptionKind> QapiType for OpenOptions<K> {
    fn describe(schema: &mut Schema) -> String {
        let members = |schema: &mut Schema| {
            let type_name = K::kind_type(schema);
            let mut members = vec![crate::schema::SchemaMember {
                name: K::KIND,
                type_name,
                optional: false,
            }];
            members.extend(K::members(schema));
            members
        };
        let variants = K::variants(schema);
        if variants.is_empty() {
            schema.object(K::TYPE_NAME, members)
        } else {
            schema.union(K::TYPE_NAME, K::KIND, members, |_| variants)
        }
    }
    fn decode(value: Value, at: &Path<'_>) -> Result<Self, QmpError> {
        let mut members = Members::open(value, at)?;
        let kind: String = members.take(K::KIND)?;
        let members = members.rest();
        K::check(&kind, &members)?;
        Ok(Self::new(kind, members, Syntax::Json))
    }
    fn encode(&self) -> Value {
        let mut object = Map::new();
        object.insert(K::KIND.to_owned(), Value::String(self.kind.clone()));
        object.extend(self.members.clone());
        Value::Object(object)
    }
}

/// `device_add`.
pub type DeviceOptions = OpenOptions<DeviceKind>;
/// `netdev_add`.
pub type NetdevOptions = OpenOptions<NetdevKind>;
/// `object-add`.
pub type ObjectOptions = OpenOptions<ObjectKind>;
