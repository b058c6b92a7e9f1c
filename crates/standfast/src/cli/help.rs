//! The texts of `-help`, `-device help` and their kin, made from the declared tables.

use std::fmt::Write;

use config::device_types::DEVICE_TYPES;
use config::property::{Category, DeviceType, Property, Support};

use super::options::{OPTIONS, OptionSpec, Section};

/// The widest a line of help gets.
const WIDTH: usize = 100;

/// `-help`.
pub fn options() -> String {
    let mut text = format!(
        "{}\nusage: standfast [options]\n\nA virtual machine monitor whose VMs keep a passed-through NIC and still live-migrate.\n",
        crate::VERSION
    );
    for section in Section::ALL {
        let _ = writeln!(text, "\n{}:", section.heading());
        for spec in OPTIONS.iter().filter(|spec| spec.section == section) {
            let _ = writeln!(text, "{}", heading(spec));
            wrap(&mut text, "        ", spec.help);
        }
    }
    text.push_str("\nExit status: 0 at the orderly end, 1 if an option is wrong or the machine cannot be started.\n");
    text
}

/// An option as the help shows it: names and argument.
pub fn heading(spec: &OptionSpec) -> String {
    let names: Vec<String> = std::iter::once(spec.name)
        .chain(spec.aliases.iter().copied())
        .map(|name| format!("-{name}"))
        .collect();
    let mut heading = names.join(" or ");
    if let Some(argument) = spec.argument {
        heading.push(' ');
        heading.push_str(argument);
    }
    heading
}

fn wrap(text: &mut String, indent: &str, words: &str) {
    let mut line = String::from(indent);
    for word in words.split(' ') {
        if line.len() + 1 + word.len() > WIDTH && line.len() > indent.len() {
            let _ = writeln!(text, "{}", line.trim_end());
            line = String::from(indent);
        }
        line.push_str(word);
        line.push(' ');
    }
    let _ = writeln!(text, "{}", line.trim_end());
}

/// `-device help`.
pub fn devices() -> String {
    let mut text = String::new();
    for category in Category::ALL {
        let mut devices = DEVICE_TYPES
            .iter()
            .filter(|device| device.category == category)
            .peekable();
        if devices.peek().is_none() {
            continue;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        let _ = writeln!(text, "{}:", category.heading());
        for device in devices {
            let _ = write!(text, "name \"{}\", bus {}", device.name, device.bus.name());
            if let Some(alias) = device.alias {
                let _ = write!(text, ", alias \"{alias}\"");
            }
            let _ = writeln!(text, ", desc \"{}\"", device.description);
        }
    }
    text
}

/// `-device NAME,help`.
pub fn device(device: &DeviceType) -> String {
    let mut text = format!("{} options:\n", device.name);
    let mut properties: Vec<&Property> = device.properties().collect();
    properties.sort_by_key(|property| property.name);
    for property in properties {
        let left = format!("  {}=<{}>", property.name, property.kind.type_name());
        let _ = writeln!(text, "{left:<33} - {}", described(property));
    }
    text
}

/// `-machine TYPE,help`; nothing if there is no type of the name `type_name`.
pub fn machine(type_name: &str) -> Option<String> {
    let (_, name) = config::vm::machine_type(type_name).ok()?;
    let mut text = format!("{name}-machine options:\n");
    for (name, kind, about) in config::vm::machine_options() {
        let left = format!("  {name}=<{kind}>");
        let _ = writeln!(text, "{left:<33} - {about}");
    }
    Some(text)
}

/// `-netdev TYPE,help`; nothing if there is no type of the name `type_name`.
pub fn netdev(type_name: &str) -> Option<String> {
    let mut options = monitor::types::netdev_options(type_name)?;
    options.sort_by(|a, b| a.name.cmp(&b.name));
    let mut text = format!("{type_name} options:\n");
    for option in options {
        let left = format!("  {}=<{}>", option.name, option.kind);
        let _ = writeln!(text, "{left:<33} - {}", option.about);
    }
    Some(text)
}

/// `-object TYPE,help`; nothing if there is no type of the name `type_name`.
pub fn object(type_name: &str) -> Option<String> {
    let mut properties = crate::backend::type_properties(type_name)?;
    properties.retain(|property| property.name != "type");
    properties.sort_by(|a, b| a.name.cmp(&b.name));
    let mut text = format!("{type_name} options:\n");
    for property in properties {
        let left = format!("  {}=<{}>", property.name, property.kind);
        let what = property.description.unwrap_or_default();
        let _ = writeln!(text, "{left:<33} - {what}");
    }
    Some(text)
}

/// A property's description with what there is to add to it.
pub fn described(property: &Property) -> String {
    let mut text = property.description.to_owned();
    match property.support {
        Support::Full => {}
        Support::Ignored => text.push_str(" (accepted, no effect)"),
        Support::Only(allowed, why) => {
            let _ = write!(text, " (only {}: {why})", allowed.join(", "));
        }
    }
    if let Some(default) = property.default {
        let _ = write!(text, " (default: {default})");
    }
    text
}

/// A list of names with a line each.
pub fn list(heading: &str, rows: &[(&str, &str)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = format!("{heading}\n");
    for (name, what) in rows {
        let _ = writeln!(text, "{name:<width$}  {what}");
    }
    text
}
