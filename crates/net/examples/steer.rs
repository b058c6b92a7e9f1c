//! Steers a host's switch by hand: what the machine does around each switch of the path, one command at
//! a time. For trying it on a NIC, and for repairing a host.
//!
//!     steer TAP MAC VF|- look|standby|arm|primary|away

use std::process::ExitCode;

use net::steer::{Outcome, Steering, Wanted};

const BY_HAND: &str = "by hand";

fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|b| u8::from_str_radix(b, 16).ok())
        .collect::<Option<_>>()?;
    bytes.try_into().ok()
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [tap, address, vf, action] = words.as_slice() else {
        eprintln!("usage: steer TAP MAC VF|- look|standby|arm|primary|away");
        return ExitCode::from(2);
    };
    let Some(mac) = mac(address) else {
        eprintln!("steer: '{address}' is no MAC address");
        return ExitCode::from(2);
    };
    let vf = (vf != "-").then_some(vf.as_str());
    let mut steering = match Steering::discover(Wanted::pair(tap, vf, mac)) {
        Ok(steering) => steering,
        Err(e) => {
            eprintln!("steer: {e}");
            return ExitCode::FAILURE;
        }
    };
    println!("{}", steering.describe());
    let report = match action.as_str() {
        "standby" => steering.to_standby(BY_HAND),
        "arm" => steering.arm_primary(),
        "primary" => steering.to_primary(BY_HAND),
        "away" => steering.guest_left(BY_HAND),
        _ => {
            println!("{:#?}", steering.surroundings());
            return ExitCode::SUCCESS;
        }
    };
    for (step, outcome) in &report.steps {
        match outcome {
            Outcome::Done => println!("{step}"),
            Outcome::Already => println!("{step}   (it was so)"),
            Outcome::Failed(e) => println!("{step}   FAILED: {e}"),
        }
    }
    if report.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
