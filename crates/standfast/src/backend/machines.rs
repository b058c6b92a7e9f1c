//! What this program can be: the machines, and the options of its command line.

use crate::cli::options::{OPTIONS, OptionSpec};
use config::vm::{DEFAULT_MACHINE, MAX_CPUS, Q35_VERSIONS};
use monitor::QmpError;
use monitor::types::{
    CommandLineOptionInfo, CommandLineParameterInfo, CommandLineParameterType, MachineInfo,
};

/// `query-machines`.
pub(super) fn machines() -> Vec<MachineInfo> {
    let none = MachineInfo {
        name: "none".to_owned(),
        alias: None,
        is_default: None,
        cpu_max: 1,
        hotpluggable_cpus: false,
        numa_mem_supported: false,
        deprecated: false,
        default_cpu_type: None,
        default_ram_id: Some("ram".to_owned()),
        acpi: false,
    };
    let q35 = Q35_VERSIONS.iter().rev().map(|version| {
        let name = format!("pc-q35-{version}");
        let default = name == DEFAULT_MACHINE;
        MachineInfo {
            name,
            alias: default.then(|| "q35".to_owned()),
            is_default: default.then_some(true),
            cpu_max: MAX_CPUS.into(),
            hotpluggable_cpus: false,
            numa_mem_supported: false,
            deprecated: is_old(version),
            default_cpu_type: Some("host-x86_64-cpu".to_owned()),
            default_ram_id: Some("pc.ram".to_owned()),
            acpi: true,
        }
    });
    q35.chain([none]).collect()
}

/// Of the versions that QEMU 10.0 has, these it will drop before long.
fn is_old(version: &str) -> bool {
    let mut numbers = version.split('.').map(|each| each.parse().unwrap_or(0));
    let (major, minor): (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (major, minor) < (7, 1)
}

/// The options that are lists of parameters, and the name QEMU has for the list where it is another one. The parameters of the last
/// four depend on the type they name, so they have none here.
const LISTS: &[(&str, &str)] = &[
    ("machine", "machine"),
    ("accel", "accel"),
    ("smp", "smp-opts"),
    ("m", "memory"),
    ("name", "name"),
    ("overcommit", "overcommit"),
    ("rtc", "rtc"),
    ("boot", "boot-opts"),
    ("action", "action"),
    ("msg", "msg"),
    ("mon", "mon"),
    ("add-fd", "add-fd"),
    ("drive", "drive"),
    ("chardev", "chardev"),
    ("netdev", "netdev"),
    ("object", "object"),
    ("device", "device"),
    ("global", "global"),
];
const OPEN_ENDED: &[&str] = &["chardev", "netdev", "object", "device", "global"];

/// `query-command-line-options`.
pub(super) fn command_line_options(
    only: Option<&str>,
) -> Result<Vec<CommandLineOptionInfo>, QmpError> {
    let info = |(ours, theirs): &(&str, &str)| {
        let spec = OPTIONS.iter().find(|spec| spec.name == *ours)?;
        Some(CommandLineOptionInfo {
            option: (*theirs).to_owned(),
            parameters: if OPEN_ENDED.contains(ours) {
                Vec::new()
            } else {
                parameters(spec)
            },
        })
    };
    let wanted = |(_, theirs): &&(&str, &str)| only.is_none_or(|only| only == *theirs);
    let found: Vec<_> = LISTS.iter().filter(wanted).filter_map(info).collect();
    match only {
        Some(only) if found.is_empty() => {
            Err(QmpError::generic(format!("invalid option name: {only}")))
        }
        _ => Ok(found),
    }
}

/// The parameters that the form of an option's argument names: `[acpi=on|off]` is a boolean `acpi`.
fn parameters(spec: &OptionSpec) -> Vec<CommandLineParameterInfo> {
    let form = spec.argument.unwrap_or_default();
    let mut found: Vec<CommandLineParameterInfo> = Vec::new();
    for (at, _) in form.match_indices('=') {
        let before = form.get(..at).unwrap_or_default();
        let is_name = |c: char| c.is_ascii_lowercase() || c == '-' || c == '_';
        let name = before.rsplit(|c| !is_name(c)).next().unwrap_or_default();
        // An implied name stands in brackets: `[size=]SIZE`.
        let after = form.get(at + 1..).unwrap_or_default();
        let after = after.strip_prefix(']').unwrap_or(after);
        let value = after.split([',', '[', ']', ' ']).next().unwrap_or_default();
        let kind = match value {
            "on|off" => CommandLineParameterType::Boolean,
            "N" => CommandLineParameterType::Number,
            "SIZE" => CommandLineParameterType::Size,
            _ => CommandLineParameterType::String,
        };
        if !name.is_empty() && found.iter().all(|known| known.name != name) {
            found.push(CommandLineParameterInfo {
                name: name.to_owned(),
                kind,
                help: None,
                default: None,
            });
        }
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn old_versions_are_told_to_be_old() {
        let old = |name: &str| machines().iter().any(|m| m.name == name && m.deprecated);
        assert!(old("pc-q35-7.0") && old("pc-q35-2.12") && old("pc-q35-4.0.1"));
        assert!(!old("pc-q35-7.1") && !old("pc-q35-10.0") && !old("none"));
    }

    #[test]
    fn every_list_is_an_option_of_ours() {
        assert_eq!(command_line_options(None).unwrap().len(), LISTS.len());
        assert!(command_line_options(Some("nope")).is_err());
    }

    #[test]
    fn the_forms_of_arguments_name_the_parameters() {
        let of = |option: &str| {
            let mut all = command_line_options(Some(option)).unwrap();
            let parameters = all.remove(0).parameters;
            let pair = |p: CommandLineParameterInfo| format!("{}:{}", p.name, p.kind);
            parameters.into_iter().map(pair).collect::<Vec<_>>()
        };
        assert!(of("machine").contains(&"type:string".to_owned()));
        assert!(of("machine").contains(&"acpi:boolean".to_owned()));
        assert_eq!(
            of("smp-opts").first().map(String::as_str),
            Some("cpus:number")
        );
        assert_eq!(of("memory"), ["size:size"]);
        assert!(of("overcommit").contains(&"cpu-pm:boolean".to_owned()));
        assert!(of("device").is_empty());
    }
}
