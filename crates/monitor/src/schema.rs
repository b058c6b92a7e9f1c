//! `query-qmp-schema`: the protocol described by the types that carry it.
//!
//! QEMU hides its type names behind numbers; a client is told to treat them as opaque. Ours stay readable.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// One member of an object type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaMember {
    /// The name on the wire.
    pub name: &'static str,
    /// The name of its type.
    pub type_name: String,
    /// It may be left out.
    pub optional: bool,
}

impl SchemaMember {
    fn to_json(&self) -> Value {
        let mut object = Map::new();
        object.insert("name".to_owned(), json!(self.name));
        if self.optional {
            object.insert("default".to_owned(), Value::Null);
        }
        object.insert("type".to_owned(), json!(self.type_name));
        Value::Object(object)
    }
}

/// The entries gathered so far: commands and events in their order, then types by name.
#[derive(Debug, Default)]
pub struct Schema {
    entries: Vec<Value>,
    types: BTreeMap<String, Value>,
    netdev_types: Vec<String>,
    object_types: Vec<String>,
}

impl Schema {
    /// Nothing described yet. The kinds of netdevs and of objects are known to the program only, so they are handed in.
    pub fn new(netdev_types: &[String], object_types: &[String]) -> Self {
        Self {
            netdev_types: netdev_types.to_vec(),
            object_types: object_types.to_vec(),
            ..Self::default()
        }
    }

    /// Enters the enumeration of the kinds of netdevs.
    pub fn netdev_types(&mut self) -> String {
        let values = std::mem::take(&mut self.netdev_types);
        let name = self.enumeration(
            "NetClientDriver",
            &values.iter().map(String::as_str).collect::<Vec<_>>(),
        );
        self.netdev_types = values;
        name
    }

    /// Enters what each kind of netdev takes besides its id.
    pub fn netdev_variants(&mut self) -> Vec<(&'static str, String)> {
        let names = std::mem::take(&mut self.netdev_types);
        let variants = crate::types::netdev_variants(self, &names);
        self.netdev_types = names;
        variants
    }

    /// Enters the enumeration of the kinds of objects.
    pub fn object_types(&mut self) -> String {
        let values = std::mem::take(&mut self.object_types);
        let name = self.enumeration(
            "ObjectType",
            &values.iter().map(String::as_str).collect::<Vec<_>>(),
        );
        self.object_types = values;
        name
    }

    /// Enters a built-in type.
    pub fn builtin(&mut self, name: &str, json_type: &str) -> String {
        self.types.entry(name.to_owned()).or_insert_with(
            || json!({"name": name, "meta-type": "builtin", "json-type": json_type}),
        );
        name.to_owned()
    }

    /// Enters the array of an element type.
    pub fn array(&mut self, element: &str) -> String {
        let name = format!("[{element}]");
        self.types.entry(name.clone()).or_insert_with(
            || json!({"name": name, "meta-type": "array", "element-type": element}),
        );
        name
    }

    /// Enters an enumeration.
    pub fn enumeration(&mut self, name: &str, values: &[&str]) -> String {
        self.types.entry(name.to_owned()).or_insert_with(|| {
            let members: Vec<Value> = values.iter().map(|value| json!({"name": value})).collect();
            json!({"name": name, "meta-type": "enum", "members": members, "values": values})
        });
        name.to_owned()
    }

    /// Enters an alternate of the given member types.
    pub fn alternate(&mut self, name: &str, types: &[String]) -> String {
        self.types.entry(name.to_owned()).or_insert_with(|| {
            let members: Vec<Value> = types.iter().map(|ty| json!({"type": ty})).collect();
            json!({"name": name, "meta-type": "alternate", "members": members})
        });
        name.to_owned()
    }

    /// Enters an object type. `members` is asked only the first time, so a type may contain itself.
    pub fn object(
        &mut self,
        name: &str,
        members: impl FnOnce(&mut Self) -> Vec<SchemaMember>,
    ) -> String {
        if !self.types.contains_key(name) {
            self.types.insert(name.to_owned(), Value::Null);
            let members = members(self);
            let members: Vec<Value> = members.iter().map(SchemaMember::to_json).collect();
            self.types.insert(
                name.to_owned(),
                json!({"name": name, "meta-type": "object", "members": members}),
            );
        }
        name.to_owned()
    }

    /// Enters a union: an object whose further members (an object type for each value of `tag`) depend on the member `tag`.
    pub fn union(
        &mut self,
        name: &str,
        tag: &str,
        members: impl FnOnce(&mut Self) -> Vec<SchemaMember>,
        variants: impl FnOnce(&mut Self) -> Vec<(&'static str, String)>,
    ) -> String {
        if !self.types.contains_key(name) {
            self.types.insert(name.to_owned(), Value::Null);
            let members = members(self);
            let members: Vec<Value> = members.iter().map(SchemaMember::to_json).collect();
            let variants: Vec<Value> = variants(self)
                .into_iter()
                .map(|(case, ty)| json!({"case": case, "type": ty}))
                .collect();
            let entry = json!({
                "name": name, "meta-type": "object", "members": members, "tag": tag, "variants": variants,
            });
            self.types.insert(name.to_owned(), entry);
        }
        name.to_owned()
    }

    /// Enters a command.
    pub fn command(
        &mut self,
        name: &str,
        arg_type: &str,
        ret_type: &str,
        allow_oob: bool,
        features: &[&str],
    ) {
        let mut entry = json!({"name": name, "meta-type": "command", "arg-type": arg_type, "ret-type": ret_type});
        if let Some(entry) = entry.as_object_mut() {
            if allow_oob {
                entry.insert("allow-oob".to_owned(), json!(true));
            }
            if !features.is_empty() {
                entry.insert("features".to_owned(), json!(features));
            }
        }
        self.entries.push(entry);
    }

    /// Enters an event.
    pub fn event(&mut self, name: &str, arg_type: &str) {
        self.entries
            .push(json!({"name": name, "meta-type": "event", "arg-type": arg_type}));
    }

    /// The whole as `query-qmp-schema` returns it.
    pub fn into_json(self) -> Vec<Value> {
        let Self {
            mut entries, types, ..
        } = self;
        entries.extend(types.into_values());
        entries
    }
}
