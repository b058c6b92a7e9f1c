//! Whole command lines: what they add up to, and the one line that a wrong one gets.
#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Output};

use config::vm::{
    ChardevBackend, DeviceKind, FdRef, Incoming, MachineKind, MonitorMode, SocketAddress, VmConfig,
    place_devices,
};
use proptest::prelude::*;
use standfast::cli::options::OPTIONS;
use standfast::cli::{self, Invocation};

/// Splits at blanks; `KERNEL` and `INITRD` stand for files that exist.
fn words(line: &str, folder: &Path) -> Vec<OsString> {
    let kernel = folder.join("bzImage");
    let initrd = folder.join("initrd");
    std::fs::write(&kernel, "kernel").unwrap();
    std::fs::write(&initrd, "initrd").unwrap();
    line.split_whitespace()
        .map(|word| {
            let word = word.replace("KERNEL", kernel.to_str().unwrap());
            OsString::from(
                word.replace("INITRD", initrd.to_str().unwrap())
                    .replace('␣', " ")
                    .replace('␤', "\n"),
            )
        })
        .collect()
}

fn config(line: &str) -> VmConfig {
    let folder = tempfile::tempdir().unwrap();
    match cli::parse(words(line, folder.path())) {
        Ok(Invocation::Run(config)) => *config,
        other => panic!("{line}: {other:?}"),
    }
}

fn wrong(line: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    match cli::parse(words(line, folder.path())) {
        Err(error) => error
            .to_string()
            .replace(folder.path().to_str().unwrap(), "DIR"),
        Ok(other) => panic!("{line}: {other:?}"),
    }
}

fn program(line: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_standfast"))
        .args(words(line, folder.path()))
        .output()
        .unwrap()
}

/// The seed document's pair on a machine.
const PAIR: &str = "-M q35 -accel kvm -cpu host -m 1G -smp 2 -kernel KERNEL -initrd INITRD -append console=ttyS0␣quiet \
    -nodefaults -display none -serial null \
    -device pcie-root-port,id=root1,chassis=1,slot=1 -device pcie-root-port,id=root2,chassis=2,slot=2 \
    -netdev tap,id=hostnet1,ifname=tap0,script=no,downscript=no \
    -device virtio-net-pci,netdev=hostnet1,id=net1,mac=52:54:00:6f:55:cc,bus=root2,failover=on \
    -device vfio-pci,host=5e:00.2,id=hostdev0,bus=root1,failover_pair_id=net1";

#[test]
fn the_pair_adds_up() {
    let config = config(PAIR);
    assert_eq!(config.machine.type_name, "pc-q35-10.0");
    assert_eq!((config.memory_bytes, config.smp.cpus), (1 << 30, 2));
    assert_eq!(config.boot.append, "console=ttyS0 quiet");
    assert_eq!(config.devices.len(), 4);
    assert!(config.monitors.is_empty() && config.warnings().is_empty());
    assert_eq!(
        config
            .serial_ports()
            .unwrap()
            .first()
            .map(|port| (port.iobase, port.irq)),
        Some((0x3f8, 4))
    );
    let places = place_devices(&config.devices).unwrap();
    let shown: Vec<String> = places
        .iter()
        .flatten()
        .map(|p| format!("{} {}", p.bus, p.addr))
        .collect();
    assert_eq!(
        shown,
        ["pcie.0 01.0", "pcie.0 02.0", "root2 00.0", "root1 00.0"]
    );
}

#[test]
fn what_libvirt_probes_with() {
    let config = config(
        "-S -no-user-config -nodefaults -nographic -machine none,accel=kvm:tcg \
         -qmp unix:/tmp/qmp.monitor,server=on,wait=off -pidfile /tmp/qmp.pid -daemonize",
    );
    assert_eq!(config.machine.kind, MachineKind::None);
    assert!(config.daemonize && config.start_paused && config.serials.is_empty());
    assert_eq!(config.monitors.len(), 1);
    assert_eq!(config.monitors[0].mode, MonitorMode::Control);
    assert_eq!(config.chardevs[0].id, config.monitors[0].chardev);
}

#[test]
fn what_libvirt_starts_a_domain_with() {
    let config = config(concat!(
        "-name guest=vm1,debug-threads=on -S ",
        r#"-object {"qom-type":"secret","id":"masterKey0","format":"raw","file":"/x/master-key.aes"} "#,
        "-machine pc-q35-10.0,usb=off,dump-guest-core=off,memory-backend=pc.ram,acpi=on -accel kvm ",
        "-cpu host,migratable=on -m size=262144k ",
        r#"-object {"qom-type":"memory-backend-ram","id":"pc.ram","size":268435456} "#,
        "-overcommit mem-lock=off -smp 2,sockets=2,cores=1,threads=1 ",
        "-uuid c7a5fdbd-edaf-9455-926a-d65c16db1809 -display none -no-user-config -nodefaults ",
        "-chardev socket,id=charmonitor,fd=18,server=on,wait=off -mon chardev=charmonitor,id=monitor,mode=control ",
        "-rtc base=utc -no-shutdown -boot strict=on -kernel KERNEL -initrd INITRD -append console=ttyS0 ",
        r#"-device {"driver":"pcie-root-port","port":8,"chassis":1,"id":"pci.1","bus":"pcie.0","multifunction":true,"addr":"0x1"} "#,
        r#"-device {"driver":"pcie-root-port","port":9,"chassis":2,"id":"pci.2","bus":"pcie.0","addr":"0x1.0x1"} "#,
        r#"-netdev {"type":"tap","fd":"21","id":"hostua-backup0"} "#,
        r#"-device {"driver":"virtio-net-pci","failover":true,"netdev":"hostua-backup0","id":"ua-backup0","mac":"52:54:00:00:00:01","bus":"pci.1","addr":"0x0"} "#,
        r#"-device {"driver":"vfio-pci","host":"0000:06:00.0","id":"ua-primary0","failover_pair_id":"ua-backup0","bus":"pci.2","addr":"0x0"} "#,
        "-add-fd set=0,fd=19,opaque=serial0-log -chardev file,id=charserial0,path=/dev/fdset/0,append=on ",
        r#"-device {"driver":"isa-serial","chardev":"charserial0","id":"serial0","index":0} "#,
        r#"-audiodev {"id":"audio1","driver":"none"} -global ICH9-LPC.noreboot=off -watchdog-action reset "#,
        "-msg timestamp=on -incoming defer",
    ));
    assert_eq!(config.incoming, Some(Incoming::Defer));
    assert_eq!(config.machine.memory_backend.as_deref(), Some("pc.ram"));
    assert!(config.no_shutdown && !config.machine.dump_guest_core && config.log.timestamp);
    match &config.chardevs[0].backend {
        ChardevBackend::Socket(socket) => {
            assert_eq!(socket.address, SocketAddress::Fd(FdRef::Number(18)))
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        config.serial_ports().unwrap()[0].id.as_deref(),
        Some("serial0")
    );
    assert_eq!(config.fd_sets[0].fd, 19);
}

#[test]
fn what_is_made_without_being_asked() {
    let shared = config("-nographic -kernel KERNEL");
    assert_eq!(
        (
            shared.serials.len(),
            shared.monitors.len(),
            shared.chardevs.len()
        ),
        (1, 1, 1)
    );
    assert!(shared.chardevs[0].mux);
    assert_eq!(shared.serials[0].chardev, shared.monitors[0].chardev);
    let silent = config("-display none -kernel KERNEL");
    assert_eq!((silent.serials.len(), silent.monitors.len()), (1, 0));
    assert_eq!(silent.chardevs[0].backend, ChardevBackend::Null);
    let bare = config("-nodefaults -nographic -kernel KERNEL");
    assert!(bare.serials.is_empty() && bare.monitors.is_empty());
    let serial = config("-nographic -monitor none -kernel KERNEL");
    assert!(!serial.chardevs[0].mux && serial.monitors.is_empty());
    let second = config("-nodefaults -serial none -serial null -kernel KERNEL");
    assert_eq!(second.serial_ports().unwrap()[0].iobase, 0x2f8);
}

#[test]
fn values_of_the_machine() {
    let config = config(
        "--machine q35,memory-backend=m -object memory-backend-memfd,id=m,size=512M -cpu max,migratable=off,+avx,-pmu,kvm=off \
         -global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off -smp 4,cores=2 --kernel KERNEL -enable-kvm \
         -action reboot=shutdown,shutdown=pause -nodefaults -d info,migration,trace:pci",
    );
    assert_eq!(config.memory_bytes, 512 << 20);
    assert!(
        !config.machine.acpi_pci_hotplug
            && config.no_reboot
            && config.no_shutdown
            && !config.cpu.kvm
    );
    assert_eq!(
        config.cpu.features,
        [("avx".to_owned(), true), ("pmu".to_owned(), false)]
    );
    assert_eq!(
        (config.smp.sockets, config.smp.cores, config.smp.threads),
        (2, 2, 1)
    );
    assert_eq!(config.log.items, ["info", "migration", "trace:pci"]);
    let disk = self::config(
        "-kernel KERNEL -drive file=INITRD,format=raw,if=virtio -drive file=KERNEL,format=raw,if=none,id=d -device virtio-blk-pci,drive=d",
    );
    assert_eq!(
        disk.devices
            .iter()
            .filter(|d| matches!(d.kind, DeviceKind::VirtioBlk(_)))
            .count(),
        2
    );
    let nodes = self::config(concat!(
        r#"-blockdev {"driver":"file","filename":"INITRD","node-name":"s","read-only":true} "#,
        r#"-blockdev {"node-name":"f","driver":"raw","file":"s"} -device virtio-blk-pci,drive=f -kernel KERNEL"#,
    ));
    assert!(nodes.drives[1].readonly);
    assert_eq!(nodes.drives[0].path, nodes.drives[1].path);
}

#[test]
fn one_line_for_each_wrong_command_line() {
    for (line, message) in [
        (
            "-devcie x",
            "-devcie: invalid option (did you mean '-device'?)",
        ),
        (
            "--frobnicate",
            "--frobnicate: invalid option (-help lists the options)",
        ),
        (
            "disk.img",
            "disk.img: not an option; a disk image is given by -drive file=disk.img,format=raw,if=virtio",
        ),
        ("-m", "-m: requires an argument"),
        (
            "-m 12x",
            "-m 12x: Parameter 'size' expects a size below 2^64, such as 512M or 4G",
        ),
        (
            "-m 1G,slots=2,maxmem=4G",
            "-m 1G,slots=2,maxmem=4G: slots= and maxmem= are not supported: memory cannot be added later",
        ),
        (
            "-m 16E",
            "-m 16E: Parameter 'size' expects a size below 2^64, such as 512M or 4G",
        ),
        (
            "-M pc",
            "-machine pc: machine type 'pc' is not supported; use q35",
        ),
        (
            "-M pc-q35-99.0",
            "-machine pc-q35-99.0: unsupported machine type: \"pc-q35-99.0\" (did you mean 'pc-q35-10.0'?)",
        ),
        (
            "-machine q35,accel=tcg",
            "-machine q35,accel=tcg: accelerator 'tcg' is not supported; use kvm",
        ),
        (
            "-machine q35,memory-backnd=x",
            "-machine q35,memory-backnd=x: Invalid parameter 'memory-backnd' (did you mean 'memory-backend'?)",
        ),
        (
            "-accel tcg",
            "-accel tcg: accelerator 'tcg' is not supported; use kvm",
        ),
        (
            "-accel tcg,thread=multi -accel hvf",
            "-accel tcg,thread=multi: accelerator 'tcg' is not supported; use kvm",
        ),
        (
            "-accel tcg -accel nope",
            "-accel nope: invalid accelerator nope; use kvm",
        ),
        (
            "-cpu Nehalem",
            "-cpu Nehalem: unable to find CPU model 'Nehalem'; use host: the guest gets the host's own processor",
        ),
        (
            "-smp 65",
            "-smp 65: Invalid SMP CPUs 65. The max CPUs supported by machine 'pc-q35' is 64",
        ),
        (
            "-overcommit cpu-pm=on",
            "-overcommit cpu-pm=on: cpu-pm=on is not supported: a guest that idles gives its processor up",
        ),
        (
            "-serial telnet:127.0.0.1:5",
            "-serial telnet:127.0.0.1:5: telnet=on is not supported; use a plain socket, as tcp:HOST:PORT",
        ),
        (
            "-smp 4,sockets=3,cores=2,maxcpus=4",
            "-smp 4,sockets=3,cores=2,maxcpus=4: Invalid CPU topology: product of the hierarchy must match maxcpus: sockets (3) * dies (1) * cores (2) * threads (1) != maxcpus (4)",
        ),
        (
            "-smp 2,maxcpus=4",
            "-smp 2,maxcpus=4: maxcpus=4 differs from cpus=2, and vCPUs cannot be added later; leave maxcpus= out",
        ),
        (
            "-kernel /nope/x",
            "-kernel /nope/x: could not open kernel '/nope/x': No such file or directory",
        ),
        (
            "-kernel /",
            "-kernel /: could not open kernel '/': Is a directory",
        ),
        (
            "-kernel KERNEL -initrd /nope",
            "-initrd /nope: could not open initrd '/nope': No such file or directory",
        ),
        (
            "-initrd INITRD",
            "-initrd DIR/initrd: -initrd only allowed with -kernel option",
        ),
        (
            "-M q35",
            "-kernel: nothing to boot: there is no firmware, give the guest's kernel by -kernel FILE",
        ),
        (
            "-incoming bogus:xx",
            "-incoming bogus:xx: unknown migration protocol: bogus:xx",
        ),
        (
            "-uuid x",
            "-uuid x: failed to parse UUID string: expected 8-4-4-4-12 hexadecimal digits",
        ),
        (
            "-display gtk",
            "-display gtk: there is no display; use -display none, and -serial for the guest's console",
        ),
        (
            "-d foo",
            "-d foo: unknown log item 'foo'; there are info, all, failover, hypervisor, machine, memory, migration, monitor, net, pci, standfast, vfio, virtio, guest_errors, unimp, trace:PART",
        ),
        (
            "-rtc base=never",
            "-rtc base=never: Parameter 'base' expects utc, localtime, 2024-12-31 or 2024-12-31T23:59:59, not 'never'",
        ),
        (
            "-cpu host,+nope",
            "-cpu host,+nope: Property 'host-x86_64-cpu.nope' not found",
        ),
        (
            "-cpu host,+vmx",
            "-cpu host,+vmx: 'vmx' is not supported: it would not survive a migration",
        ),
        (
            "-smp 0",
            "-smp 0: Invalid CPU topology: CPU topology parameters must be greater than zero",
        ),
        (
            "-smp 4,sockets=3",
            "-smp 4,sockets=3: Invalid CPU topology: product of the hierarchy must match maxcpus: sockets (3) * dies (1) * cores (1) * threads (1) != maxcpus (4)",
        ),
        ("-global x", "-global x: expected DRIVER.PROPERTY=VALUE"),
        (
            "-global e1000.mac=x",
            "-global e1000.mac=x: global property of unknown device type 'e1000'",
        ),
        (
            "-global virtio-net-pci.foo=1",
            "-global virtio-net-pci.foo=1: Property 'virtio-net-pci.foo' not found",
        ),
        (
            "-add-fd set=1,fd=1",
            "-add-fd set=1,fd=1: fd cannot be a standard I/O stream",
        ),
        (
            "-device virtio-net-pci,netdev=x",
            "-device virtio-net-pci,netdev=x: Property 'virtio-net-device.netdev' can't find value 'x'",
        ),
        (
            "-netdev tap,id=n -device virtio-net-pci,netdev=n -device virtio-net-pci,netdev=n",
            "-device virtio-net-pci,netdev=n: Property 'virtio-net-device.netdev' can't take value 'n', it's in use",
        ),
        (
            "-netdev tap,id=n -netdev tap,id=n",
            "-netdev tap,id=n: Duplicate ID 'n' for netdev",
        ),
        (
            "-device virtio-rng-pci,id=x -device virtio-rng-pci,id=x",
            "-device virtio-rng-pci,id=x: Duplicate ID 'x' for device",
        ),
        (
            "-device virtio-rng-pci,bus=x",
            "-device virtio-rng-pci,bus=x: Bus 'x' not found",
        ),
        (
            "-device virtio-rng-pci,bus=late -device pcie-root-port,id=late",
            "-device virtio-rng-pci,bus=late: Bus 'late' not found",
        ),
        (
            "-chardev null,id=c -device isa-serial,chardev=c,bus=pcie.0",
            "-device isa-serial,chardev=c,bus=pcie.0: Device 'isa-serial' can't go on PCIE bus",
        ),
        (
            "-device virtio-rng-pci,bus=isa.0",
            "-device virtio-rng-pci,bus=isa.0: Device 'virtio-rng-pci' can't go on ISA bus",
        ),
        (
            "-device pcie-root-port,id=r -device virtio-net-pci,bus=r -device virtio-net-pci,bus=r",
            "-device virtio-net-pci,bus=r: PCI: slot 0 function 0 not available for virtio-net-pci, in use by virtio-net-pci,id=(null)",
        ),
        (
            "-device virtio-rng-pci,addr=0x1f",
            "-device virtio-rng-pci,addr=0x1f: PCI: slot 31 function 0 not available for virtio-rng-pci, in use by ICH9-LPC,id=(null)",
        ),
        (
            "-device pcie-root-port,id=r -device virtio-net-pci,bus=r,addr=1",
            "-device virtio-net-pci,bus=r,addr=1: PCI: slot 1 is not valid for virtio-net-pci, parent device only allows plugging into slot 0.",
        ),
        (
            "-device virtio-rng-pci,addr=4 -device virtio-rng-pci,addr=4.1",
            "-device virtio-rng-pci,addr=4.1: PCI: single function device virtio-rng-pci in slot 4.0 leaves no room for virtio-rng-pci at 04.1; give the first multifunction=on",
        ),
        (
            "-device vfio-pci,host=1:2.3,id=p,failover_pair_id=s -device vfio-pci,host=1:2.4,id=q,failover_pair_id=s",
            "-device vfio-pci,host=1:2.4,id=q,failover_pair_id=s: Cannot attach more than one primary device to 's': 'p' and 'q'",
        ),
        (
            "-device vfio-pci,host=1:2.3,iommufd=iommufd0",
            "-device vfio-pci,host=1:2.3,iommufd=iommufd0: Device 'iommufd0' not found: define it by -object iommufd,id=iommufd0",
        ),
        (
            "-object iothread,id=io -device vfio-pci,host=1:2.3,iommufd=io",
            "-device vfio-pci,host=1:2.3,iommufd=io: Invalid parameter type for 'iommufd', expected: iommufd",
        ),
        (
            "-object iommufd,id=i,fd=x",
            "-object iommufd,id=i,fd=x: Parameter 'fd' expects the number of an inherited file descriptor, not 'x'",
        ),
        (
            "-device virtio-blk-pci,drive=d",
            "-device virtio-blk-pci,drive=d: Property 'virtio-blk-device.drive' can't find value 'd'",
        ),
        (
            "-drive file=/nope,format=raw,if=virtio",
            "-drive file=/nope,format=raw,if=virtio: could not open image '/nope': No such file or directory",
        ),
        (
            "-drive file=x,format=qcow2,if=virtio",
            "-drive file=x,format=qcow2,if=virtio: image format 'qcow2' is not supported; convert it: qemu-img convert -O raw, and give format=raw",
        ),
        (
            "-serial chardev:c",
            "-serial chardev:c: chardev \"c\" not found",
        ),
        ("-mon chardev=c", "-mon chardev=c: chardev \"c\" not found"),
        (
            "-chardev null,id=c -mon chardev=c -serial chardev:c",
            "-mon chardev=c: chardev 'c' is in use; give it mux=on to share it",
        ),
        (
            "-serial stdio -monitor stdio",
            "-monitor stdio: cannot use stdio by multiple character devices; share one by mux=on (mon:stdio)",
        ),
        (
            "-qmp bogus",
            "-qmp bogus: 'bogus' is not a character device; use unix:PATH, tcp:HOST:PORT, stdio, file:PATH, pipe:PATH, pty, null, none or chardev:ID",
        ),
        (
            "-daemonize -serial stdio",
            "-daemonize: cannot use stdio ('stdio') with -daemonize, which closes it",
        ),
        (
            "-machine q35,memory-backend=m",
            "-machine memory-backend: Memory backend 'm' not found; define it by -object memory-backend-ram,id=m,size=…",
        ),
        (
            "-machine q35,memory-backend=m -object memory-backend-ram,id=m,size=1G -m 2G",
            "-machine memory-backend: Size specified by -m option (2147483648) must match size of explicitly specified 'memory-backend' property (1073741824)",
        ),
        (
            "-only-migratable -device vfio-pci,host=1:2.3",
            "-device vfio-pci,host=1:2.3: disallowing migration blocker (-only-migratable): the device has no standby; give failover_pair_id=",
        ),
        (
            "-machine none -device virtio-rng-pci",
            "-device virtio-rng-pci: machine 'none' has no bus for a device",
        ),
        (
            "-serial null -serial null -serial null -serial null -serial null",
            "-serial: Max. supported number of ISA serial ports is 4.",
        ),
    ] {
        // A command line that is wrong elsewhere must not be told about the kernel first.
        let with_kernel = format!(
            "{line} {}",
            if line.contains("kernel")
                || line.contains("-initrd INITRD")
                || line == "-M q35"
                || line == "-m"
                || line.contains("none")
            {
                ""
            } else {
                "-kernel KERNEL"
            }
        );
        assert_eq!(wrong(&with_kernel), message, "{line}");
    }
}

#[test]
fn warns_of_a_pair_that_cannot_work() {
    let alone =
        config("-kernel KERNEL -netdev tap,id=n -device virtio-net-pci,netdev=n,id=s,failover=on");
    // Its primary may come by the monitor; the guest that accepts before then is warned of.
    assert!(alone.warnings().is_empty(), "{:?}", alone.warnings());
    let dangling =
        config("-kernel KERNEL -device vfio-pci,host=1:2.3,id=p,failover_pair_id=s").warnings();
    assert!(
        dangling[0].contains("'s' in failover_pair_id=, which does not exist (yet)"),
        "{dangling:?}"
    );
    let plain = config(
        "-kernel KERNEL -device virtio-net-pci,id=s,netdev=n -netdev tap,id=n -device vfio-pci,host=1:2.3,id=p,failover_pair_id=s",
    );
    assert!(
        plain.warnings()[0].contains("which is no standby"),
        "{:?}",
        plain.warnings()
    );
}

#[test]
fn the_program_says_one_line_and_leaves_with_1() {
    let folder = tempfile::tempdir().unwrap();
    let (pid, qmp) = (folder.path().join("pid"), folder.path().join("qmp"));
    for line in [
        "-device foo,bar=1",
        "-bogus",
        "-kernel /nope",
        "-device {\"driver\":\"virtio-net-pci\",\"failover\":1}",
        "-device x␤y",
    ] {
        let line = format!(
            "-pidfile {} -qmp unix:{},server=on,wait=off {line}",
            pid.display(),
            qmp.display()
        );
        let output = program(&line);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}: {stderr}");
        assert!(output.stdout.is_empty(), "{line}");
        assert_eq!(stderr.lines().count(), 1, "{line}: {stderr}");
        assert!(stderr.starts_with("standfast: -"), "{stderr}");
        assert!(
            !pid.exists() && !qmp.exists(),
            "{line} left something behind"
        );
    }
}

#[test]
fn what_the_host_refuses_is_told_with_its_option_and_once() {
    let cases = [
        (
            "-serial file:/no/x",
            "-serial file:/no/x: /no/x: No such file or directory",
        ),
        (
            "-serial unix:/no/x,server=on,wait=off",
            "-serial unix:/no/x,server=on,wait=off: Failed to bind socket to /no/x: No such file or directory",
        ),
        (
            "-qmp unix:/no/x,server=on,wait=off",
            "-qmp unix:/no/x,server=on,wait=off: monitor: cannot listen on 'unix:/no/x': No such file or directory",
        ),
        (
            "-chardev socket,id=m,path=/no/x -mon m",
            "-chardev socket,id=m,path=/no/x: monitor: cannot connect to 'unix:/no/x': No such file or directory",
        ),
        (
            "-serial stdio -monitor stdio",
            "-monitor stdio: cannot use stdio by multiple character devices; share one by mux=on (mon:stdio)",
        ),
        (
            "-object memory-backend-file,id=m,size=128M,mem-path=/no/x -M memory-backend=m",
            "-m: guest RAM 'm': cannot open /no/x: No such file or directory",
        ),
        (
            "-netdev tap,id=n,script=no,downscript=no",
            "-netdev tap,id=n,script=no,downscript=no: give the tap's name (ifname=), or a script that connects a new one (script=FILE)",
        ),
        (
            "-add-fd set=1,fd=333",
            "-add-fd set=1: fd=333: that descriptor is not open; pass it to this process",
        ),
    ];
    for (line, message) in cases {
        let output = program(&format!(
            "-M q35 -accel qtest -nodefaults -display none {line}"
        ));
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            format!("standfast: {message}\n")
        );
        assert_eq!(output.status.code(), Some(1), "{line}");
    }
}

#[test]
fn a_file_that_is_no_whole_kernel_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let mut header = vec![0; 0x400];
    header[0x1f1] = 1; // sectors of setup code
    header[0x1f4..0x1f8].copy_from_slice(&0x1000_u32.to_le_bytes()); // 16 bytes each
    header[0x1fe..0x206].copy_from_slice(b"\x55\xaa\xeb\x66HdrS");
    header[0x206..0x208].copy_from_slice(&0x20c_u16.to_le_bytes());
    header[0x211] = 1; // loaded high
    header[0x214..0x218].copy_from_slice(&0x10_0000_u32.to_le_bytes());
    header[0x236] = 1; // a 64-bit entry
    for (image, reason) in [
        (
            vec![b'x'; 0x1000],
            "it is neither a bzImage nor an ELF image",
        ),
        (
            header,
            "the file is truncated: its 1024 bytes are fewer than its header says",
        ),
    ] {
        std::fs::write(&path, image).unwrap();
        let output = program(&format!(
            "-M q35 -accel qtest -nodefaults -display none -kernel {}",
            path.display()
        ));
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            format!(
                "standfast: -kernel {}: {reason}; give a bzImage or a vmlinux with a PVH entry point\n",
                path.display()
            )
        );
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn the_link_to_a_terminal_goes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("console");
    let line = format!(
        "-M q35 -accel qtest -nodefaults -display none -chardev pty,id=c,path={} -device vfio-pci,host=ff:1f.7",
        link.display()
    );
    let output = program(&line);
    assert_eq!(output.status.code(), Some(1));
    assert!(link.symlink_metadata().is_err());
}

#[test]
fn the_program_prints_and_leaves_with_0() {
    for (line, first) in [
        ("--version", "Standfast 0.1.0 (QEMU 10.0.2 compatible)"),
        ("-version", "Standfast 0.1.0 (QEMU 10.0.2 compatible)"),
        ("-h", "Standfast 0.1.0 (QEMU 10.0.2 compatible)"),
        ("-M help", "Supported machines are:"),
        ("-machine help", "Supported machines are:"),
        ("-accel help", "Accelerators supported:"),
        ("-cpu help", "Available CPUs:"),
        ("-netdev help", "Available netdev backend types:"),
        ("-netdev tap,help", "tap options:"),
        ("-netdev stream,id=n,help", "stream options:"),
        ("-machine q35,help", "pc-q35-10.0-machine options:"),
        ("-M none,?", "none-machine options:"),
        ("-machine nope,help", "Supported machines are:"),
        ("-chardev help", "Available chardev backend types:"),
        ("-object help", "List of user creatable objects:"),
        ("-device help", "Controller/Bridge/Hub devices:"),
        ("-device virtio-net-pci,help", "virtio-net-pci options:"),
        ("-device vfio-pci,?", "vfio-pci options:"),
        (
            "-object memory-backend-memfd,help",
            "memory-backend-memfd options:",
        ),
        ("-d help", "Log items (comma separated):"),
        ("-display help", "Available display backend types:"),
    ] {
        let output = program(line);
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{line}");
        assert!(output.stderr.is_empty(), "{line}");
        assert_eq!(stdout.lines().next(), Some(first), "{line}");
    }
}

/// The names in a text of help, with their types.
fn options_of(text: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(text).into_owned();
    let option = |line: &str| {
        let (name, rest) = line.trim().split_once("=<")?;
        Some((name.to_owned(), rest.split_once('>')?.0.to_owned()))
    };
    text.lines().filter_map(option).collect()
}

/// A value of each type that is taken by whatever has it, or one of the words that it lists.
fn value_of(kind: &str) -> &str {
    match kind {
        "bool" | "OnOffAuto" => "off",
        "str" => "kvm",
        words => words.split('|').next().unwrap(),
    }
}

#[test]
fn what_help_says_of_a_machine_is_taken() {
    let options = options_of(&program("-machine q35,help").stdout);
    assert!(options.len() > 25, "{options:?}");
    for (name, kind) in options {
        let line = format!("-kernel KERNEL -machine q35,{name}={}", value_of(&kind));
        let folder = tempfile::tempdir().unwrap();
        let parsed = cli::parse(words(&line, folder.path()));
        let error = parsed
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(
            // The object that it names does not exist.
            error.is_empty() || name == "memory-backend" && error.contains("'kvm' not found"),
            "{line}: {error}"
        );
    }
}

#[test]
fn what_help_says_of_a_netdev_is_known_to_it() {
    // Each is whole: one word more that it does not know is all that can be wrong with it.
    let whole = |kind: &str| match kind {
        "hubport" => vec!["hubid=0"],
        "dgram" => vec![
            "local.type=unix,local.path=/x,remote.type=unix,remote.path=/y",
            "local.type=inet,local.host=::1,local.port=1,remote.type=inet,remote.host=::1,remote.port=2",
            "local.type=fd,local.str=3",
        ],
        "stream" => vec![
            "addr.type=unix,addr.path=/x",
            "addr.type=inet,addr.host=::1,addr.port=1",
            "addr.type=fd,addr.str=3",
        ],
        "socket" => vec!["listen=:1", "udp=127.0.0.1:1,localaddr=127.0.0.1:2"],
        _ => vec!["restrict=off", "vhost=off"],
    };
    let complaint = |line: &str| {
        let folder = tempfile::tempdir().unwrap();
        let line = format!("{line} -kernel KERNEL");
        let parsed = cli::parse(words(&line, folder.path()));
        parsed
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    for (kind, _) in config::vm::NETDEV_TYPES {
        let options = options_of(&program(&format!("-netdev {kind},help")).stdout);
        assert!(!options.is_empty(), "{kind}");
        let is_unknown = |form: &str, name: &str| {
            let text = complaint(&format!("-netdev {kind},id=n,{form},{name}=1"));
            text.contains(&format!("Invalid parameter '{name}'"))
        };
        let mut forms = whole(kind);
        forms.retain(|form| is_unknown(form, "nonsense"));
        assert!(!forms.is_empty(), "{kind}: no form of it is whole");
        for (name, _) in options {
            // Told by introspection, as QEMU tells it: an open socket is given as the local end, and has its remote one.
            if (*kind, name.as_str()) == ("dgram", "remote.str") {
                continue;
            }
            let known = forms.iter().any(|form| !is_unknown(form, &name));
            assert!(known, "-netdev {kind}: {name}");
        }
    }
    assert_eq!(
        wrong("-netdev nope,help"),
        "-netdev nope,help: Parameter 'type' does not accept value 'nope'"
    );
}

#[test]
fn no_option_is_declared_twice() {
    let mut seen = std::collections::HashSet::new();
    for spec in OPTIONS {
        for name in std::iter::once(&spec.name).chain(spec.aliases) {
            assert!(seen.insert(*name), "-{name}");
        }
    }
}

proptest! {
    #[test]
    fn no_command_line_makes_it_panic(
        line in proptest::collection::vec((0..OPTIONS.len(), "[a-z0-9=,.:{}\"\\[\\]+-]{0,30}|.{0,20}"), 0..6),
    ) {
        let mut arguments = Vec::new();
        for (index, argument) in line {
            arguments.push(OsString::from(format!("-{}", OPTIONS[index].name)));
            if OPTIONS[index].argument.is_some() {
                arguments.push(OsString::from(argument));
            }
        }
        if let Err(error) = cli::parse(arguments) {
            let text = error.to_string();
            prop_assert!(text.starts_with('-'), "{}", text);
        }
    }
}
