//! docs/options.md and docs/standfast.1, made from the declared tables.
//!
//! A test compares the committed files with what these functions give;
//! `STANDFAST_WRITE_DOCS=1 cargo test -p standfast --test docs` writes them anew.

use std::fmt::Write;

use config::device_types::DEVICE_TYPES;
use config::property::{BusKind, Property};
use config::vm::{CHARDEV_TYPES, NETDEV_TYPES, OBJECT_TYPES};

use crate::cli::help;
use crate::cli::options::{OPTIONS, Section};
use crate::log;

/// What the options page begins with.
const INTRODUCTION: &str = "\
# Options

Made from the tables in `crates/standfast/src/cli/options.rs` and `crates/config/src/device_types`; do not edit.

Options begin with one dash or two. Values are written as with QEMU:

- `key=value,key2=value2`; a comma within a value is doubled (`,,`); the first word may leave out its key where the synopsis
  shows it in brackets (`-device virtio-net-pci` is `-device driver=virtio-net-pci`).
- A bare word is a switch: `server` is `server=on`, `nowait` is `wait=off`.
- Switches are `on` or `off` (`yes`/`no`, `true`/`false` are taken too); numbers are decimal or `0x` hexadecimal; sizes have the
  suffixes `k`, `M`, `G`, `T`, `P`, `E` (powers of 1024).
- `-device`, `-netdev`, `-object` and `-blockdev` take a JSON object instead: `-device '{\"driver\":\"virtio-net-pci\",\"failover\":true}'`.

A wrong option is told in one line on standard error, `standfast: -device foo,bar=1: …`; the exit status is 1 and nothing is left
behind. The exit status is 0 at the orderly end, after a help text, and (with `-daemonize`) as soon as all sockets listen.

A pair is a standby and a primary that names it:

```text
-device pcie-root-port,id=root1,chassis=1 -device pcie-root-port,id=root2,chassis=2
-netdev tap,id=hostnet1,ifname=tap0,script=no,downscript=no
-device virtio-net-pci,netdev=hostnet1,id=net1,mac=52:54:00:6f:55:cc,bus=root2,failover=on
-device vfio-pci,host=5e:00.2,id=hostdev0,bus=root1,failover_pair_id=net1
```
";

/// docs/options.md.
pub fn markdown() -> String {
    let mut text = String::from(INTRODUCTION);
    for section in Section::ALL {
        let _ = writeln!(text, "\n## {}\n", section.heading());
        for spec in OPTIONS.iter().filter(|spec| spec.section == section) {
            let _ = writeln!(text, "- `{}`: {}", help::heading(spec), spec.help);
        }
    }
    for (heading, rows) in [
        ("Network back ends", NETDEV_TYPES),
        ("Character devices", CHARDEV_TYPES),
        ("Objects", OBJECT_TYPES),
    ] {
        let _ = writeln!(text, "\n## {heading}\n");
        for (name, what) in rows {
            let _ = writeln!(text, "- `{name}`: {what}");
        }
    }
    let _ = writeln!(text, "\n## Log items (`-d`)\n");
    for (name, what) in log::ITEMS {
        let _ = writeln!(text, "- `{name}`: {what}");
    }
    let _ = writeln!(
        text,
        "\nThe environment variable `{}` (`migration=debug,pci=trace`) wins over `-d`.",
        log::ENVIRONMENT
    );
    text.push_str(
        "\n## Devices\n\nEvery device has `id=`; `bus=` names a root port's id, or `pcie.0`.\n",
    );
    for device in DEVICE_TYPES {
        let _ = writeln!(text, "\n### {}\n", device.name);
        let bus = match device.bus {
            BusKind::Pcie => "PCI Express",
            BusKind::Isa => "ISA",
        };
        let alias = device
            .alias
            .map_or_else(String::new, |alias| format!("; alias `{alias}`"));
        let hotplug = if device.hotpluggable {
            "hotpluggable"
        } else {
            "not hotpluggable"
        };
        let _ = writeln!(text, "{}. {bus}, {hotplug}{alias}.\n", device.description);
        // Two types of one model have the same properties: the first of them lists them.
        let twin = DEVICE_TYPES
            .iter()
            .find(|other| other.model == device.model);
        if let Some(twin) = twin.filter(|twin| twin.name != device.name) {
            let _ = writeln!(text, "Its properties are those of [{0}](#{0}).", twin.name);
            continue;
        }
        text.push_str("| property | type | description |\n|---|---|---|\n");
        let mut properties: Vec<&Property> = device.properties().collect();
        properties.sort_by_key(|property| property.name);
        for property in properties {
            let described = help::described(property).replace('|', "\\|");
            let _ = writeln!(
                text,
                "| `{}` | {} | {described} |",
                property.name,
                property.kind.type_name()
            );
        }
    }
    text
}

/// docs/standfast.1.
pub fn man_page() -> String {
    let mut text = format!(
        ".\\\" Made from crates/standfast/src/cli/options.rs; do not edit.\n.TH STANDFAST 1 \"\" \"Standfast {}\"\n.ad l\n.nh\n",
        env!("CARGO_PKG_VERSION")
    );
    text.push_str(".SH NAME\nstandfast \\- virtual machine monitor that keeps a passed\\-through NIC and still live\\-migrates\n");
    text.push_str(".SH SYNOPSIS\n.B standfast\n[\\fIoptions\\fR]\n.SH DESCRIPTION\n");
    text.push_str(
        "Runs a virtual machine under KVM. Its options and its monitor protocol are QEMU's. Options begin with one dash or two; \
         their values are written key=value,key2=value2, a comma within a value doubled, or as a JSON object.\n",
    );
    for section in Section::ALL {
        let _ = writeln!(text, ".SH {}", roff(&section.heading().to_uppercase()));
        for spec in OPTIONS.iter().filter(|spec| spec.section == section) {
            let names: Vec<String> = std::iter::once(spec.name)
                .chain(spec.aliases.iter().copied())
                .map(|name| format!("\\fB\\-{}\\fR", roff(name)))
                .collect();
            let argument = spec.argument.map_or_else(String::new, |argument| {
                format!(" {}", roff(argument).replace("[,", "\\:[,"))
            });
            let _ = writeln!(
                text,
                ".TP\n{}{argument}\n{}",
                names.join(" or "),
                roff(spec.help)
            );
        }
    }
    text.push_str(".SH ENVIRONMENT\n.TP\n");
    let _ = writeln!(
        text,
        "\\fB{}\\fR\nA log filter such as migration=debug,pci=trace; it wins over \\fB\\-d\\fR.",
        log::ENVIRONMENT
    );
    text.push_str(
        ".SH EXIT STATUS\n.TP\n0\nThe orderly end; a help text; with \\fB\\-daemonize\\fR, all sockets listen.\n.TP\n1\n\
         An option is wrong or the machine cannot be started; one line on standard error says why, and nothing is left behind.\n",
    );
    text
}

/// Text that roff leaves as it is.
fn roff(text: &str) -> String {
    let text = text
        .replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('\'', "\\(aq");
    if text.starts_with('.') {
        format!("\\&{text}")
    } else {
        text
    }
}
