//! Plays the guest of a VMM that waits on a qtest socket, and prints what it sees.
//!
//! ```sh
//! printf '\364%.0s' $(seq 65536) > halt.bin      # a firmware that only halts, for QEMU
//! qemu-system-x86_64 -M q35 -bios halt.bin -display none -qtest unix:qtest.sock,server=on,wait=off … &
//! cargo run -p guest-model --example play -- unix:qtest.sock
//! ```

use anyhow::{Context as _, Result};
use guest_model::pci::Function;
use guest_model::{
    ConfigAccess, GuestBus, GuestRam, MsiWords, NetDriver, NetOptions, PciTree, QtestBus, Windows,
};

const ECAM: u64 = 0xb000_0000;

fn main() -> Result<()> {
    let path = std::env::args()
        .nth(1)
        .context("usage: play unix:PATH, the socket of -qtest unix:PATH,server=on,wait=off")?;
    let mut bus = QtestBus::connect(&path).with_context(|| format!("cannot reach {path}"))?;
    let bus: &mut dyn GuestBus = &mut bus;

    let mut ram = GuestRam::ask(bus)?;
    let mut words = MsiWords::new(bus, &mut ram)?;
    let access = ConfigAccess::open_ecam(bus, ECAM)?;
    println!("configuration by {access:x?}");
    let tree = PciTree::enumerate(bus, access, &Windows::default())?;
    for function in tree.functions() {
        print_function(function);
    }
    for function in tree.functions().iter().filter(|f| f.is_virtio_net()) {
        match NetDriver::probe(
            bus,
            &mut ram,
            &mut words,
            access,
            function,
            &NetOptions::default(),
        ) {
            Ok(net) => print_net(&net),
            Err(error) => println!("{}: {error}", function.bdf),
        }
    }
    Ok(())
}

fn print_function(function: &Function) {
    let Function {
        bdf,
        vendor,
        device,
        class,
        ..
    } = function;
    print!("{bdf} {vendor:04x}:{device:04x} class {class:04x}");
    if let Some(bridge) = &function.bridge {
        print!(" buses {:02x}-{:02x}", bridge.secondary, bridge.subordinate);
        for (name, window) in [
            ("io", bridge.io),
            ("memory", bridge.memory),
            ("prefetch", bridge.prefetch),
        ] {
            if let Some((start, size)) = window {
                print!(" {name} {start:#x}+{size:#x}");
            }
        }
    }
    println!();
    for bar in &function.bars {
        let (index, kind, size) = (bar.index, bar.kind, bar.size);
        match bar.address {
            Some(address) => println!("    BAR {index} {kind:?} {address:#x}+{size:#x}"),
            None => println!("    BAR {index} {kind:?} of {size:#x} without room"),
        }
    }
}

fn print_net(net: &NetDriver) {
    let mac: Vec<String> = net.mac().iter().map(|byte| format!("{byte:02x}")).collect();
    println!(
        "{}: virtio-net {} features {:#x} link {} mtu {:?}",
        net.bdf(),
        mac.join(":"),
        net.accepted(),
        if net.link().up { "up" } else { "down" },
        net.mtu(),
    );
}
