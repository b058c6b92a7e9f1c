//! What a command line is answered: standard error, and the exit status.

use anyhow::Result;

use crate::intended::{
    CHASSIS, CHECKED, DANGLING, HIDDEN, ONE_LINE, PORT_SLOT, REMEDY, STRING_BOOL,
};
use crate::machine::{board, pairs, primary, standby, words};
use crate::scenario::{Scenario, row};
use crate::stage::Stage;

/// A board with two ports and `more` behind them.
fn two(stage: &mut Stage, more: &str) -> Result<()> {
    let mut line = board(2);
    line.extend(words(more));
    stage.command_line("vm", &line)
}

/// The same with a standby at the first port.
fn beside_standby(stage: &mut Stage, more: &str) -> Result<()> {
    let mut line = board(2);
    line.extend(standby(0));
    line.extend(words(more));
    stage.command_line("vm", &line)
}

/// A row for each message, and for each line that is taken.
pub(super) const SCENARIOS: &[Scenario] = &[
    row!("boot-pair", "a pair is taken", |stage| {
        stage.command_line("vm", &pairs(1))
    }),
    row!(
        "boot-primary-first",
        "the primary before its standby",
        |stage| {
            let mut line = board(2);
            line.extend(primary(0));
            line.extend(standby(0));
            stage.command_line("vm", &line)
        },
        &[HIDDEN]
    ),
    row!(
        "boot-failover-off",
        "the standby does not offer it",
        |stage| {
            let mut line = board(2);
            line.extend(words(
                "-device virtio-net-pci,id=standby0,bus=root0,mac=52:54:00:00:00:01,failover=off",
            ));
            line.extend(primary(0));
            stage.command_line("vm", &line)
        },
        &[DANGLING]
    ),
    row!(
        "boot-no-standby",
        "a primary that names nothing",
        |stage| {
            let mut line = board(2);
            line.extend(primary(0));
            stage.command_line("vm", &line)
        },
        &[DANGLING]
    ),
    row!(
        "boot-self-pair",
        "a device that names itself",
        |stage| {
            two(
                stage,
                "-device virtio-net-pci,id=standby0,bus=root0,failover=on,failover_pair_id=standby0",
            )
        },
        &[CHECKED]
    ),
    row!(
        "boot-lonely-netdevs",
        "a netdev that nobody uses, and one of a primary that is hidden",
        |stage| {
            let mut line = board(2);
            let mut netdev = |id: &str| {
                let [here, there] = ["here", "there"].map(|end| stage.text(&format!("{id}-{end}")));
                line.push("-netdev".to_owned());
                line.push(format!(
                    "dgram,id={id},local.type=unix,local.path={here},remote.type=unix,remote.path={there}"
                ));
            };
            netdev("lonely");
            netdev("hidden");
            line.extend(standby(0));
            line.extend(words(
                "-device virtio-net-pci,id=primary0,bus=root1,netdev=hidden,failover_pair_id=standby0",
            ));
            stage.command_line("vm", &line)
        }
    ),
    row!("boot-primary-no-id", "a primary without an id", |stage| {
        beside_standby(
            stage,
            "-device virtio-net-pci,bus=root1,failover_pair_id=standby0",
        )
    }),
    row!("boot-primary-no-bus", "a primary on pcie.0", |stage| {
        beside_standby(
            stage,
            "-device virtio-net-pci,id=primary0,failover_pair_id=standby0",
        )
    }),
    row!(
        "boot-primary-port-off",
        "a primary at a port that cannot hotplug",
        |stage| {
            beside_standby(
                stage,
                "-device pcie-root-port,id=fixed,chassis=9,hotplug=off -device virtio-net-pci,id=primary0,bus=fixed,failover_pair_id=standby0",
            )
        }
    ),
    row!(
        "boot-second-primary",
        "two primaries of one standby",
        |stage| {
            let mut line = pairs(1);
            line.extend(words("-device pcie-root-port,id=root2,chassis=3 -device virtio-net-pci,id=primary1,bus=root2,failover_pair_id=standby0"));
            stage.command_line("vm", &line)
        }
    ),
    row!(
        "boot-not-ethernet",
        "a primary of another class",
        |stage| {
            beside_standby(
                stage,
                "-device virtio-rng-pci,id=primary0,bus=root1,failover_pair_id=standby0",
            )
        },
        &[CHECKED]
    ),
    row!(
        "boot-multifunction",
        "a primary of several functions",
        |stage| {
            beside_standby(
                stage,
                "-device virtio-net-pci,id=primary0,bus=root1,multifunction=on,failover_pair_id=standby0",
            )
        },
        &[CHECKED]
    ),
    row!(
        "boot-function-1",
        "a primary that is function 1",
        |stage| {
            beside_standby(
                stage,
                "-device virtio-net-pci,id=primary0,bus=root1,addr=0.1,failover_pair_id=standby0",
            )
        },
        &[CHECKED]
    ),
    row!(
        "boot-standby-slot",
        "a primary in its standby's slot",
        |stage| {
            beside_standby(
                stage,
                "-device virtio-net-pci,id=primary0,bus=root0,failover_pair_id=standby0",
            )
        },
        &[CHECKED]
    ),
    row!("boot-duplicate-id", "one id twice", |stage| {
        two(
            stage,
            "-device virtio-net-pci,id=x,bus=root0 -device virtio-net-pci,id=x,bus=root1",
        )
    }),
    row!("boot-unknown-bus", "a bus that is not there", |stage| {
        two(stage, "-device virtio-net-pci,bus=nope")
    }),
    row!(
        "boot-unknown-driver",
        "a device that is not there",
        |stage| two(stage, "-device nope,id=x")
    ),
    row!("boot-no-driver", "no device's name", |stage| two(
        stage,
        "-device id=x"
    )),
    row!("boot-wrong-bus", "an ISA device on PCI Express", |stage| {
        two(stage, "-device isa-serial,bus=pcie.0")
    }),
    row!("boot-bad-bool", "failover is neither on nor off", |stage| {
        two(stage, "-device virtio-net-pci,failover=maybe")
    }),
    row!("boot-slot-taken", "two devices at one port", |stage| {
        two(
            stage,
            "-device virtio-net-pci,bus=root0,addr=0 -device virtio-net-pci,bus=root0,addr=0",
        )
    }),
    row!(
        "boot-slot-1",
        "a port's slot that is not 0",
        |stage| { two(stage, "-device virtio-net-pci,bus=root0,addr=1") },
        &[PORT_SLOT]
    ),
    row!(
        "boot-unknown-property",
        "a property that is not there",
        |stage| { two(stage, "-device virtio-net-pci,nope=1") }
    ),
    row!(
        "boot-bad-mac",
        "an address that is none",
        |stage| { two(stage, "-device virtio-net-pci,mac=nope") },
        &[REMEDY]
    ),
    row!(
        "boot-bad-addr",
        "a place that is none",
        |stage| { two(stage, "-device virtio-net-pci,addr=77.9") },
        &[REMEDY]
    ),
    row!(
        "boot-unknown-netdev",
        "a netdev that is not there",
        |stage| { two(stage, "-device virtio-net-pci,netdev=nope") }
    ),
    row!("boot-netdev-no-id", "a netdev without an id", |stage| two(
        stage,
        "-netdev hubport,hubid=0"
    )),
    row!(
        "boot-netdev-unknown",
        "a netdev of a kind that is not there",
        |stage| { two(stage, "-netdev nope,id=x") }
    ),
    row!("boot-netdev-twice", "one netdev's id twice", |stage| {
        two(
            stage,
            "-netdev hubport,id=x,hubid=0 -netdev hubport,id=x,hubid=1",
        )
    }),
    row!(
        "boot-bad-uri",
        "-incoming of a protocol that is not there",
        |stage| { two(stage, "-incoming bogus:xx") }
    ),
    row!(
        "boot-unknown-option",
        "an option that is not there",
        |stage| two(stage, "-nope"),
        &[REMEDY]
    ),
    row!(
        "boot-unknown-machine",
        "a machine that is not there",
        |stage| { stage.command_line("vm", &words("-M nope -display none")) },
        &[ONE_LINE]
    ),
    row!(
        "boot-chassis-twice",
        "two ports of one chassis and slot",
        |stage| {
            stage.command_line("vm", &words("-M q35 -nodefaults -display none -device pcie-root-port,id=a,chassis=1,slot=1 -device pcie-root-port,id=b,chassis=1,slot=1"))
        },
        &[CHASSIS]
    ),
    row!(
        "boot-addr-twice",
        "two devices at one place of pcie.0",
        |stage| {
            stage.command_line("vm", &words("-M q35 -nodefaults -display none -device virtio-net-pci,addr=4 -device virtio-net-pci,addr=4"))
        }
    ),
    row!("boot-json", "a pair as JSON", |stage| {
        let mut line = board(2);
        for device in [
            crate::machine::add_standby(0),
            crate::machine::add_primary(0),
        ] {
            line.extend(["-device".to_owned(), device.to_string()]);
        }
        stage.command_line("vm", &line)
    }),
    row!(
        "boot-json-bad-bool",
        "JSON's failover is a string",
        |stage| {
            stage.command_line(
                "vm",
                &[
                    board(1),
                    vec![
                        "-device".into(),
                        r#"{"driver":"virtio-net-pci","failover":"on"}"#.into(),
                    ],
                ]
                .concat(),
            )
        },
        &[STRING_BOOL]
    ),
];
