//! What is wrong with the command line, the host or the stream: one clear error, exit status 1, and
//! nothing left behind.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::Bench;
use crate::launch::enter_netns;
use crate::vm::Config;

/// How long a VMM may take to find out that it cannot start.
const REFUSAL_LIMIT: Duration = Duration::from_secs(30);

/// A mistake, and words of which the error has to hold one.
struct Mistake {
    what: String,
    options: Vec<String>,
    names: Vec<String>,
}

fn replace(options: &[String], from: &str, to: &str) -> Vec<String> {
    options.iter().map(|word| word.replace(from, to)).collect()
}

fn with(options: &[String], more: &[&str]) -> Vec<String> {
    options
        .iter()
        .cloned()
        .chain(more.iter().map(|&word| word.to_owned()))
        .collect()
}

fn names(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn mistakes(config: &Config, folder: &Path, busy: &str, early: bool) -> Vec<Mistake> {
    let good = config.options(folder);
    let kernel = config.kernel.to_string_lossy().into_owned();
    let initrd = config.initrd.to_string_lossy().into_owned();
    let pair = config.pairs.first();
    let tap = pair.map(|pair| pair.tap.clone()).unwrap_or_default();
    let function = pair
        .and_then(|pair| pair.primary.clone())
        .unwrap_or_default();
    let second_nic = "virtio-net-pci,netdev=hostnet1,id=net9,bus=root1";
    let taken_slot = "virtio-rng-pci,id=rng9,bus=root2,addr=0x0";
    let mut all = vec![
        Mistake {
            what: "a missing kernel".to_owned(),
            options: replace(&good, &kernel, "/no/such/kernel"),
            names: names(&["/no/such/kernel"]),
        },
        Mistake {
            what: "a missing initrd".to_owned(),
            options: replace(&good, &initrd, "/no/such/initrd"),
            names: names(&["/no/such/initrd"]),
        },
        Mistake {
            what: "more memory than the host has".to_owned(),
            options: with(&good, &["-m", "1048576"]),
            names: names(&["memory", "RAM"]),
        },
        Mistake {
            what: "a netdev used twice".to_owned(),
            options: with(&good, &["-device", second_nic]),
            names: names(&["hostnet1"]),
        },
        Mistake {
            what: "an unknown bus".to_owned(),
            options: replace(&good, "bus=root2", "bus=nosuchbus"),
            names: names(&["nosuchbus"]),
        },
        Mistake {
            what: "a slot taken".to_owned(),
            options: with(&good, &["-device", taken_slot]),
            names: names(&["slot 0", "occupied", "in use"]),
        },
        Mistake {
            what: "an unknown option".to_owned(),
            options: with(&good, &["-nosuchoption"]),
            names: names(&["nosuchoption"]),
        },
    ];
    if early {
        // QEMU makes the tap.
        all.push(Mistake {
            what: "a tap that does not exist".to_owned(),
            options: replace(&good, &format!("ifname={tap}"), "ifname=nosuchtap0"),
            names: names(&["nosuchtap0"]),
        });
    }
    // QEMU looks at the NIC of a pair when the guest has accepted the pair, and not before.
    let paired = if early { good.clone() } else { Vec::new() };
    let plain = replace(
        &replace(&good, ",failover_pair_id=net1", ""),
        ",failover=on",
        "",
    );
    for (what, options) in [("alone", plain), ("in a pair", paired)] {
        if options.is_empty() {
            continue;
        }
        let wrong = |address: &str| replace(&options, &function, address);
        all.push(Mistake {
            what: format!("an absent VF {what}"),
            options: wrong("0000:7e:00.7"),
            names: names(&["0000:7e:00.7"]),
        });
        all.push(Mistake {
            what: format!("a busy VF {what}"),
            options: wrong(busy),
            names: names(&[busy]),
        });
    }
    all
}

fn refused(bench: &Bench, netns: Option<&str>, folder: &Path, mistake: &Mistake) -> Result<()> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder)?;
    let pid_file = folder.join("pid");
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["exec", "--die-with-parent"]);
    if let Some(name) = netns {
        command.args(["--netns", name]);
    }
    command
        .arg("--")
        .arg(&bench.vmm.program)
        .args(&mistake.options)
        .arg("-pidfile")
        .arg(&pid_file);
    let said = folder.join("said");
    let file = fs::File::create(&said)?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()?;
    let deadline = Instant::now() + REFUSAL_LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            bail!("it was not refused: the VMM runs");
        }
        thread::sleep(Duration::from_millis(10));
    };
    let text = fs::read_to_string(&said)?;
    ensure!(
        status.code() == Some(1),
        "the exit is {status}, not 1: {text}"
    );
    ensure!(
        mistake
            .names
            .iter()
            .any(|name| text.contains(name.as_str())),
        "the error names none of {:?}: {text}",
        mistake.names
    );
    if bench.vmm.name == "standfast" {
        ensure!(
            text.lines().count() == 1,
            "the error is not one line: {text}"
        );
        let left: Vec<String> = fs::read_dir(folder)?
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name != "said")
            .collect();
        ensure!(left.is_empty(), "left behind: {left:?}");
    }
    Ok(())
}

/// Each mistake is refused, and the host is as before.
pub fn bad_input(bench: &Bench) -> Result<()> {
    let mut config = bench.config("wrong", 0)?;
    let netns = config.netns.clone();
    // A guest that has host A's second VF makes that one busy; host A's first one stays free.
    let mut holder = bench.config("holder", 0)?;
    let place = bench.host(0)?;
    let busy = place
        .functions
        .get(1)
        .cloned()
        .context("the host has one VF only")?;
    if let Some(pair) = holder.pairs.first_mut() {
        pair.primary = Some(busy.clone());
        pair.tap = place
            .taps
            .get(1)
            .cloned()
            .context("the host has one tap only")?;
        pair.mac = super::mac(1);
        pair.address = super::address(1).to_string();
    }
    let holder = bench.boot(holder)?;
    holder.agent.wait(0, super::PRIMARY_LIMIT, |reply| {
        crate::guest::links::primary(&reply.links, &super::mac(1)).is_some()
    });
    let folder = bench.runs.join("wrong");
    let mut wrong = Vec::new();
    for mistake in mistakes(&config, &folder, &busy, bench.vmm.name == "standfast") {
        if let Err(error) = refused(bench, netns.as_deref(), &folder, &mistake) {
            wrong.push(format!("{}: {error:#}", mistake.what));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    drop(holder);
    config.name = "target".to_owned();
    config.incoming = Some(bench.uri(0)?);
    foreign_stream(bench, config)
}

/// A stream of something else: the target says so and does not run anything.
fn foreign_stream(bench: &Bench, config: Config) -> Result<()> {
    let netns = config.netns.clone();
    let mut target = bench.start(config)?;
    let address = bench.uri(0)?.replace("tcp:", "");
    let sent = thread::spawn(move || -> Result<()> {
        if let Some(name) = &netns {
            enter_netns(name)?;
        }
        let mut stream = TcpStream::connect(&address).context("connect with the target")?;
        // The target may hang up in the middle.
        let _ = stream.write_all(&b"GET / HTTP/1.1\r\nHost: not a guest\r\n\r\n".repeat(100));
        Ok(())
    });
    sent.join().map_err(|_| anyhow!("the sender panicked"))??;
    let deadline = Instant::now() + REFUSAL_LIMIT;
    loop {
        // It may end, as QEMU does, or stay and say that the migration has failed.
        if let Ok(status) = target.wait_exit(Duration::ZERO) {
            ensure!(
                !status.success(),
                "a foreign stream ended the target with status 0"
            );
            ensure!(
                !target.said().trim().is_empty(),
                "the target did not say why it ended"
            );
            return Ok(());
        }
        if target
            .qmp
            .events()
            .iter()
            .any(|event| event.name == "RESUME")
        {
            bail!("the target runs a foreign stream");
        }
        if let Ok(info) = target.qmp.execute("query-migrate", serde_json::json!({}))
            && info.get("status").and_then(serde_json::Value::as_str) == Some("failed")
        {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "the target neither ended nor said that the migration has failed"
        );
        thread::sleep(Duration::from_millis(50));
    }
}
