//! The command line: every option, and what is in its argument.

use config::device_types::DEVICE_TYPES;
use standfast::cli::options::OPTIONS;
use standfast::cli::parse;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// Each line is a word.
pub(crate) fn run(data: &[u8]) {
    let words = data
        .split(|byte| *byte == b'\n')
        .map(|word| OsString::from_vec(word.to_vec()));
    if let Err(error) = parse(words) {
        let text = error.to_string();
        assert!(!text.contains('\n'), "a message of two lines: {text:?}");
    }
}

pub(crate) fn words() -> Vec<String> {
    let mut words: Vec<String> = OPTIONS
        .iter()
        .map(|option| format!("\n-{}\n", option.name))
        .collect();
    // What an option's description names: keys, values, and what stands between them.
    for option in OPTIONS {
        let text = option.argument.unwrap_or_default();
        words.extend(
            text.split(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c))
                .filter(|word| word.len() > 1)
                .map(str::to_owned),
        );
    }
    for device in DEVICE_TYPES {
        words.push(device.name.to_owned());
        words.extend(device.properties().map(|p| format!(",{}=", p.name)));
    }
    words.extend(
        [
            "on",
            "off",
            "52:54:00:6f:55:cc",
            "5e:00.2",
            ",addr=1.0",
            "1G",
        ]
        .map(str::to_owned),
    );
    words.sort();
    words.dedup();
    words
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let lines = [
        "-M q35,accel=kvm -cpu host,migratable=off -m 1G -smp 2,sockets=1,cores=2 -nodefaults -display none \
         -device pcie-root-port,id=root1,chassis=1,slot=1 -device pcie-root-port,id=root2,chassis=2,slot=2 \
         -netdev tap,id=h1,ifname=tap0,script=no,downscript=no,queues=2 \
         -device virtio-net-pci,netdev=h1,id=net1,mac=52:54:00:6f:55:cc,bus=root2,failover=on,mq=on,vectors=6 \
         -device vfio-pci,host=5e:00.2,id=hostdev0,bus=root1,failover_pair_id=net1",
        "-machine none -nodefaults -qmp unix:/tmp/a.sock,server=on,wait=off -qmp tcp:localhost:4444,server,nowait",
        "-object memory-backend-memfd,id=m,size=1G,share=on -M q35,memory-backend=m -m 1G",
        "-object {\"qom-type\":\"memory-backend-file\",\"id\":\"m\",\"size\":1073741824,\"mem-path\":\"/dev/shm\",\"share\":true}",
        "-chardev socket,id=c,path=/tmp/c,server=on,wait=off,reconnect=1 -mon chardev=c,mode=control,pretty=on -serial chardev:c",
        "-chardev file,id=f,path=/tmp/f,append=on -serial mon:stdio -monitor none -daemonize -pidfile /tmp/p",
        "-drive file=/tmp/a,,b,format=raw,if=virtio,readonly=on,cache=none -drive id=d,file=x,if=none -device virtio-blk-pci,drive=d",
        "-blockdev driver=file,node-name=n,filename=/tmp/x -blockdev {\"driver\":\"raw\",\"node-name\":\"r\",\"file\":\"n\"}",
        "-device {\"driver\":\"virtio-net-pci\",\"id\":\"n\",\"mac\":\"52:54:00:6f:55:cc\",\"addr\":\"0x5\"} -global virtio-net-pci.mq=on",
        "-device virtio-rng-pci,rng=r,max-bytes=1024,period=1000 -object rng-random,id=r,filename=/dev/urandom",
        "-incoming tcp:0:4444 -incoming defer -S -no-reboot -no-shutdown -name guest=x,debug-threads=on -uuid 01234567-89ab-cdef-0123-456789abcdef",
        "-device virtio-net-pci,help -device help -machine help -cpu help -help -version",
        "-rtc base=utc,clock=host -boot order=c,menu=off -k en -vga none -nographic -D /tmp/l -d trace:x -msg timestamp=on",
    ];
    lines
        .iter()
        .map(|line| {
            line.split_whitespace()
                .collect::<Vec<_>>()
                .join("\n")
                .into_bytes()
        })
        .collect()
}
