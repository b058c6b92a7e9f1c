//! Numbered frames of one pair, one under way in each direction: the next is sent once it has come, or cannot come any more.

use super::host::{Host, PEER, mac};
use anyhow::{Context as _, Result};
use guest_model::{Account, Guest, InProcessBus, Ledger, NumberedFrame};
use std::fmt;

/// Where a frame was sent: the host, and the network by number.
type Way = (usize, usize);

#[derive(Default)]
struct Direction {
    stream: u32,
    ledger: Ledger,
    next: u64,
    under_way: Option<(u64, Way)>,
    /// Frames whose way was changed or torn while they were on it: those may be lost.
    overtaken: usize,
    latest: Option<u64>,
}

impl Direction {
    /// The number of the frame to send on `way`, if one is to be sent.
    fn turn(&mut self, way: Way) -> Option<u64> {
        match self.under_way {
            Some((_, sent)) if sent == way => return None,
            Some(_) => self.overtaken += 1,
            None => {}
        }
        let number = self.next;
        self.next += 1;
        self.ledger.sent(number);
        self.under_way = Some((number, way));
        Some(number)
    }

    fn frame(&self, to: [u8; 6], from: [u8; 6], number: u64) -> Vec<u8> {
        let stream = self.stream;
        NumberedFrame {
            to,
            from,
            stream,
            number,
        }
        .encode()
    }

    /// Whether a frame from this number on has come.
    fn reached(&self, number: u64) -> bool {
        self.latest.is_some_and(|latest| latest >= number)
    }

    fn arrived(&mut self, bytes: &[u8]) {
        let Some(frame) = NumberedFrame::decode(bytes) else {
            return;
        };
        if frame.stream != self.stream {
            return;
        }
        self.ledger.arrived(frame.number);
        self.latest = self.latest.max(Some(frame.number));
        self.under_way
            .take_if(|(number, _)| *number == frame.number);
    }
}

pub struct Traffic {
    pair: usize,
    out: Direction,
    back: Direction,
}

impl fmt::Debug for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let account = self.ledger.account();
        write!(f, "{account}; under way {:?}", self.under_way)
    }
}

impl fmt::Debug for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "out {:?}, back {:?}", self.out, self.back)
    }
}

impl Traffic {
    pub fn new(pair: usize) -> Self {
        let direction = |number| Direction {
            stream: 2 * pair as u32 + number,
            ..Direction::default()
        };
        Self {
            pair,
            out: direction(1),
            back: direction(2),
        }
    }

    /// Takes in what came to the hosts' end of a network, if it is of this pair.
    pub fn arrived_outside(&mut self, bytes: &[u8]) {
        self.out.arrived(bytes);
    }

    /// Takes in what came to the guest's interface, if it is of this pair.
    pub fn arrived_inside(&mut self, bytes: &[u8]) {
        self.back.arrived(bytes);
    }

    /// A driver has left its device, or all of them have: what was under way may be lost.
    pub fn torn(&mut self) {
        for direction in [&mut self.out, &mut self.back] {
            direction.overtaken += usize::from(direction.under_way.take().is_some());
        }
    }

    /// Sends what is due, to and from the guest on host `at`; only `until` frames from these numbers on have come.
    pub fn send(
        &mut self,
        hosts: &[Option<Host>],
        at: usize,
        guest: &mut Guest,
        bus: &mut InProcessBus,
        until: (u64, u64),
    ) -> Result<Vec<String>> {
        let mut diary = Vec::new();
        let mac = mac(self.pair);
        let host = hosts.get(at).and_then(Option::as_ref).context("no host")?;
        if let Some(over) = guest.active(mac).filter(|_| !self.out.reached(until.0)) {
            let way = (at, usize::from(over.bus().saturating_sub(1)));
            if let Some(number) = self.out.turn(way) {
                guest.send(bus, mac, &self.out.frame(PEER, mac, number))?;
                diary.push(format!("frame {number} out, {way:?}"));
            }
        }
        if !self.back.reached(until.1) {
            let way = (at, host.path(self.pair));
            if let Some(number) = self.back.turn(way) {
                let frame = self.back.frame(mac, PEER, number);
                let sent = host.ends[way.1].send(&frame)?;
                diary.push(format!("frame {number} back, {way:?}, taken {sent}"));
            }
        }
        Ok(diary)
    }

    /// The next numbers out and back.
    pub fn marks(&self) -> (u64, u64) {
        (self.out.next, self.back.next)
    }

    /// Whether frames from these numbers on came both ways.
    pub fn passed(&self, (out, back): (u64, u64)) -> bool {
        self.out.reached(out) && self.back.reached(back)
    }

    /// What became of all frames that are not under way, out and back; and how many of each may be lost: those that
    /// were overtaken by a change of the path.
    pub fn accounts(&self) -> [(Account, usize); 2] {
        [&self.out, &self.back].map(|direction| {
            let mut account = direction.ledger.account();
            account.lost -= usize::from(direction.under_way.is_some());
            (account, direction.overtaken)
        })
    }
}
