//! How introspection describes itself.

use crate::error::QmpError;
use crate::qapi::{Path, QapiType, describe_member, qapi_enum, qapi_struct};
use crate::schema::{Schema, SchemaMember};
use serde_json::Value;

qapi_enum! {
    /// What an entry of the schema is.
    pub enum SchemaMetaType {
        /// A type of JSON's own.
        Builtin = "builtin",
        /// One of several words.
        Enum = "enum",
        /// Any number of one type.
        Array = "array",
        /// Members by name.
        Object = "object",
        /// One of several types.
        Alternate = "alternate",
        /// A command.
        Command = "command",
        /// An event.
        Event = "event",
    }

    /// What a built-in type is in JSON.
    pub enum JsonType {
        /// A string.
        String = "string",
        /// Any number.
        Number = "number",
        /// A whole number.
        Int = "int",
        /// true or false.
        Boolean = "boolean",
        /// null.
        Null = "null",
        /// An object.
        Object = "object",
        /// An array.
        Array = "array",
        /// Anything.
        Value = "value",
    }
}

qapi_struct! {
    /// Of a built-in type.
    pub struct SchemaInfoBuiltin {
        /// What it is in JSON.
        json_type: JsonType = "json-type",
    }

    /// One word of an enumeration.
    pub struct SchemaInfoEnumMember {
        /// The word.
        name: String = "name",
        /// What it can do besides.
        features: Option<Vec<String>> = "features",
    }

    /// Of an enumeration.
    pub struct SchemaInfoEnum {
        /// The words.
        members: Vec<SchemaInfoEnumMember> = "members",
        /// The same, as older clients look for them.
        values: Vec<String> = "values",
    }

    /// Of an array.
    pub struct SchemaInfoArray {
        /// The type of an element.
        element_type: String = "element-type",
    }

    /// One member of an object.
    pub struct SchemaInfoObjectMember {
        /// Its name.
        name: String = "name",
        /// Its type.
        kind: String = "type",
        /// There where it may be left out.
        default: Option<Value> = "default",
        /// What it can do besides.
        features: Option<Vec<String>> = "features",
    }

    /// Further members of an object.
    pub struct SchemaInfoObjectVariant {
        /// The value of the tag.
        case: String = "case",
        /// The type with these members.
        kind: String = "type",
    }

    /// Of an object.
    pub struct SchemaInfoObject {
        /// Its members.
        members: Vec<SchemaInfoObjectMember> = "members",
        /// The member that says which variant it is.
        tag: Option<String> = "tag",
        /// The variants.
        variants: Option<Vec<SchemaInfoObjectVariant>> = "variants",
    }

    /// One type of an alternate.
    pub struct SchemaInfoAlternateMember {
        /// The type.
        kind: String = "type",
    }

    /// Of an alternate.
    pub struct SchemaInfoAlternate {
        /// Its types.
        members: Vec<SchemaInfoAlternateMember> = "members",
    }

    /// Of a command.
    pub struct SchemaInfoCommand {
        /// The type of its arguments.
        arg_type: String = "arg-type",
        /// The type of its answer.
        ret_type: String = "ret-type",
        /// It may be executed out of band.
        allow_oob: Option<bool> = "allow-oob",
    }

    /// Of an event.
    pub struct SchemaInfoEvent {
        /// The type of its data.
        arg_type: String = "arg-type",
    }
}

/// One entry of `query-qmp-schema`, as [`Schema`] makes it.
#[derive(Debug, Clone, PartialEq)]
pub struct SchemaInfo(pub Value);

impl QapiType for SchemaInfo {
    fn describe(schema: &mut Schema) -> String {
        schema.union(
            "SchemaInfo",
            "meta-type",
            |schema| -> Vec<SchemaMember> {
                vec![
                    describe_member::<String>(schema, "name"),
                    describe_member::<SchemaMetaType>(schema, "meta-type"),
                    describe_member::<Option<Vec<String>>>(schema, "features"),
                ]
            },
            |schema| {
                vec![
                    ("builtin", SchemaInfoBuiltin::describe(schema)),
                    ("enum", SchemaInfoEnum::describe(schema)),
                    ("array", SchemaInfoArray::describe(schema)),
                    ("object", SchemaInfoObject::describe(schema)),
                    ("alternate", SchemaInfoAlternate::describe(schema)),
                    ("command", SchemaInfoCommand::describe(schema)),
                    ("event", SchemaInfoEvent::describe(schema)),
                ]
            },
        )
    }
    fn decode(value: Value, _at: &Path<'_>) -> Result<Self, QmpError> {
        Ok(Self(value))
    }
    fn encode(&self) -> Value {
        self.0.clone()
    }
}
