//! A node of the tree of objects, and what the three commands do with it.

use monitor::types::ObjectPropertyInfo;
use monitor::{ErrorClass, QmpError};
use serde_json::Value;

/// Who may change a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nobody.
    ReadOnly,
    /// It was settled when the device was made.
    Frozen,
    /// `realized`: may be set to what it is.
    Realized,
}

/// A property with its value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Property {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) value: Value,
    pub(crate) access: Access,
}

/// An object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) kind: String,
    /// The user's id, for messages.
    pub(crate) id: Option<String>,
    pub(crate) properties: Vec<Property>,
    pub(crate) children: Vec<(String, Node)>,
}

impl Node {
    pub(crate) fn new(kind: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            id: None,
            properties: Vec::new(),
            children: Vec::new(),
        }
    }

    /// Adds a property that nobody may change.
    pub(crate) fn with(mut self, name: &str, kind: &str, value: impl Into<Value>) -> Self {
        self.put(name, kind, value.into(), Access::ReadOnly);
        self
    }

    pub(crate) fn put(&mut self, name: &str, kind: &str, value: Value, access: Access) {
        self.properties.push(Property {
            name: name.to_owned(),
            kind: kind.to_owned(),
            value,
            access,
        });
    }

    pub(crate) fn child(mut self, name: impl Into<String>, child: Self) -> Self {
        self.children.push((name.into(), child));
        self
    }

    fn child_of(&self, name: &str) -> Option<&Self> {
        let mut children = self.children.iter();
        children.find(|(n, _)| n == name).map(|(_, child)| child)
    }

    fn walk<'a>(&self, steps: impl Iterator<Item = &'a str>) -> Option<&Self> {
        let mut node = self;
        for step in steps {
            node = node.child_of(step)?;
        }
        Some(node)
    }

    /// The object at a path from this root: absolute, or the end of a path that only one object has.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub(crate) fn resolve(&self, path: &str) -> Result<(String, &Self), QmpError> {
        let steps = || path.split('/').filter(|step| !step.is_empty());
        let not_found = || QmpError {
            class: ErrorClass::DeviceNotFound,
            desc: format!("Device '{path}' not found"),
        };
        let ambiguous = || QmpError::generic(format!("Path '{path}' is ambiguous"));
        if path.is_empty() {
            return Err(ambiguous());
        }
        if path.starts_with('/') {
            let node = self.walk(steps()).ok_or_else(not_found)?;
            return Ok((canonical(steps()), node));
        }
        let mut places = Vec::new();
        self.places(String::new(), &mut places);
        let mut found = places
            .into_iter()
            .filter_map(|(at, node)| Some((at, node.walk(steps())?)));
        match (found.next(), found.next()) {
            (Some((at, node)), None) => Ok((format!("{at}{}", canonical(steps())), node)),
            (None, _) => Err(not_found()),
            (Some(_), Some(_)) => Err(ambiguous()),
        }
    }

    /// Every node of the tree with its path.
    fn places<'a>(&'a self, path: String, into: &mut Vec<(String, &'a Self)>) {
        for (name, child) in &self.children {
            child.places(format!("{path}/{name}"), into);
        }
        into.push((path, self));
    }

    /// `qom-list`.
    pub(crate) fn list(&self) -> Vec<ObjectPropertyInfo> {
        let info = |name: &str, kind: String| ObjectPropertyInfo {
            name: name.to_owned(),
            kind,
            description: None,
            default_value: None,
        };
        let own = info("type", "string".to_owned());
        let properties = self.properties.iter();
        let children = self.children.iter();
        std::iter::once(own)
            .chain(properties.map(|p| info(&p.name, p.kind.clone())))
            .chain(children.map(|(name, node)| info(name, format!("child<{}>", node.kind))))
            .collect()
    }

    fn property(&self, name: &str) -> Option<&Property> {
        self.properties.iter().find(|p| p.name == name)
    }

    fn no_property(&self, name: &str) -> QmpError {
        QmpError::generic(format!("Property '{}.{name}' not found", self.kind))
    }

    /// `qom-get`, of the object that is at `path`.
    ///
    /// # Errors
    /// It has no such property.
    pub(crate) fn get(&self, path: &str, name: &str) -> Result<Value, QmpError> {
        if name == "type" {
            return Ok(self.kind.clone().into());
        }
        if let Some(property) = self.property(name) {
            return Ok(property.value.clone());
        }
        match self.child_of(name) {
            Some(_) => Ok(format!("{}/{name}", path.trim_end_matches('/')).into()),
            None => Err(self.no_property(name)),
        }
    }

    /// `qom-set`: there is nothing that can be changed once a device is made, only what may be set to what it is.
    ///
    /// # Errors
    /// It has no such property, or that cannot be changed.
    pub(crate) fn set(&self, name: &str, value: &Value) -> Result<(), QmpError> {
        let read_only =
            || QmpError::generic(format!("Property '{}.{name}' is not writable", self.kind));
        let Some(property) = self.property(name) else {
            return Err(if name == "type" || self.child_of(name).is_some() {
                read_only()
            } else {
                self.no_property(name)
            });
        };
        match (property.access, value) {
            (Access::ReadOnly, _) => Err(read_only()),
            (Access::Realized, Value::Bool(true)) => Ok(()),
            (Access::Realized, Value::Bool(false)) => Err(QmpError::generic(
                "a device is taken out by device_del, not by its property 'realized'",
            )),
            (Access::Realized, _) => Err(QmpError::invalid_type(name, "boolean")),
            (Access::Frozen, _) => {
                let which = match &self.id {
                    Some(id) => format!("device '{id}'"),
                    None => "anonymous device".to_owned(),
                };
                Err(QmpError::generic(format!(
                    "Attempt to set property '{name}' on {which} (type '{}') after it was realized",
                    self.kind
                )))
            }
        }
    }
}

fn canonical<'a>(steps: impl Iterator<Item = &'a str>) -> String {
    steps.map(|step| format!("/{step}")).collect()
}
