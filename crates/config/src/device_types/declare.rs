//! Short ways to write a property's declaration.

use crate::property::{Property, PropertyKind, Support};

use PropertyKind as K;

pub(super) const fn full(
    name: &'static str,
    kind: PropertyKind,
    default: Option<&'static str>,
    description: &'static str,
) -> Property {
    Property {
        name,
        kind,
        default,
        description,
        support: Support::Full,
    }
}

pub(super) const fn on(name: &'static str, description: &'static str) -> Property {
    full(name, K::Bool, Some("on"), description)
}

pub(super) const fn off(name: &'static str, description: &'static str) -> Property {
    full(name, K::Bool, Some("off"), description)
}

pub(super) const fn ignored(
    name: &'static str,
    kind: PropertyKind,
    default: Option<&'static str>,
    description: &'static str,
) -> Property {
    Property {
        name,
        kind,
        default,
        description,
        support: Support::Ignored,
    }
}

pub(super) const fn only(
    name: &'static str,
    kind: PropertyKind,
    default: &'static str,
    allowed: &'static [&'static str],
    description: &'static str,
    reason: &'static str,
) -> Property {
    Property {
        name,
        kind,
        default: Some(default),
        description,
        support: Support::Only(allowed, reason),
    }
}
