//! How fast RAM travels. Run with `cargo test --release -p migration --test speed -- --ignored --nocapture`; figures depend on
//! the machine, so that nothing is asserted about them.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Instant;

use migration::State;
use support::*;
use vm_memory::{Bytes, GuestAddress};

#[test]
#[ignore = "a measurement: run it by name, in release"]
fn a_gibibyte_half_used() {
    const SIZE: u64 = 1 << 30;
    let (source, target) = (Guest::new(SIZE, 64), Guest::new(SIZE, 64));
    let noise: Vec<u8> = (0..MIB)
        .map(|n| u8::try_from(((n * 31) >> 3) & 0xff).unwrap() | 1)
        .collect();
    for at in 0..512 {
        source
            .ram
            .guest()
            .write_slice(&noise, GuestAddress(at * MIB))
            .unwrap();
    }
    source.set_running(true);
    let (record, events) = record();
    let listener = listen("tcp:127.0.0.1:0");
    let uri = format!("tcp:127.0.0.1:{}", listener.tcp_port().unwrap());
    let incoming = receive(listener, TestTarget::new(&target, &support::record().0));
    let begun = Instant::now();
    let outgoing = send(TestSource::new(&source, &record), &uri);
    events.until_state(State::Completed);
    let took = begun.elapsed();
    let info = outgoing.info();
    println!("{took:?} for {SIZE} bytes, half of them used: {info:#?}");
    assert_eq!(incoming.join(), State::Completed);
    assert!(source.contents().0 == target.contents().0);
}
