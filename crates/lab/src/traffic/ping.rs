//! ICMP echo requests at a fixed pace, each sent and answered one accounted for.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recv, sendto,
    socket_with,
};

use crate::clock::now_us;
use crate::launch::enter_netns;

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const ICMP_HEADER_BYTES: usize = 8;

/// When each request was sent and first answered (microseconds; 0 is never).
#[derive(Debug, Clone, Default)]
struct Record {
    sent: Vec<i64>,
    answered: Vec<i64>,
}

/// A pinger at work.
pub struct Ping {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicBool>,
    record: Arc<Mutex<Record>>,
    interval: Duration,
    threads: Vec<JoinHandle<()>>,
}

/// What a pinger saw.
#[derive(Debug, Clone, PartialEq)]
pub struct PingResult {
    /// Requests sent.
    pub sent: usize,
    /// Requests never answered.
    pub lost: usize,
    /// The longest time without any answer, in milliseconds.
    pub longest_gap_ms: f64,
    /// The times without any answer of more than two and a half requests, the longest first: when each began
    /// (microseconds) and how long (ms).
    pub gaps: Vec<(i64, f64)>,
    /// When each request that was never answered was sent (microseconds), in order.
    pub lost_at_us: Vec<i64>,
}

/// How many gaps and lost requests are told one by one: more would not be told apart.
const MAX_TOLD: usize = 5000;

impl Ping {
    /// Starts to ping `target` every `interval`, from within a network namespace.
    pub fn start(netns: Option<&str>, target: Ipv4Addr, interval: Duration) -> Result<Self> {
        let netns = netns.map(str::to_owned);
        let opened = thread::spawn(move || -> Result<OwnedFd> {
            if let Some(name) = &netns {
                enter_netns(name)?;
            }
            let socket = socket_with(
                AddressFamily::INET,
                SocketType::RAW,
                SocketFlags::CLOEXEC,
                Some(ipproto::ICMP),
            )
            .context("cannot open an ICMP socket")?;
            set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_millis(100)))?;
            set_socket_recv_buffer_size(&socket, 1 << 20)?;
            Ok(socket)
        });
        let socket = Arc::new(
            opened
                .join()
                .map_err(|_| anyhow!("the pinger panicked"))??,
        );
        let identity = u16::try_from(now_us() & 0xffff).unwrap_or(1);
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicBool::new(false));
        let record = Arc::new(Mutex::new(Record::default()));
        let sender = {
            let (socket, stop, record) =
                (Arc::clone(&socket), Arc::clone(&stop), Arc::clone(&record));
            thread::spawn(move || send(&socket, target, identity, interval, &stop, &record))
        };
        let receiver = {
            let (done, record) = (Arc::clone(&done), Arc::clone(&record));
            thread::spawn(move || receive(&socket, identity, &done, &record))
        };
        Ok(Self {
            stop,
            done,
            record,
            interval,
            threads: vec![sender, receiver],
        })
    }

    /// Requests answered so far.
    pub fn answered(&self) -> usize {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.answered.iter().filter(|&&time| time > 0).count()
    }

    /// Stops sending, waits a second for late answers, and says what was seen.
    pub fn finish(mut self) -> PingResult {
        self.stop.store(true, Ordering::Relaxed);
        let end_us = now_us();
        thread::sleep(Duration::from_secs(1));
        self.end();
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        evaluate(&record.sent, &record.answered, end_us, self.interval)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.done.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Ping {
    fn drop(&mut self) {
        self.end();
    }
}

fn evaluate(sent: &[i64], answered: &[i64], end_us: i64, interval: Duration) -> PingResult {
    let mut lost_at_us: Vec<i64> = sent
        .iter()
        .zip(answered.iter().chain(std::iter::repeat(&0)))
        .filter(|(_, answer)| **answer == 0)
        .map(|(sent, _)| *sent)
        .collect();
    lost_at_us.truncate(MAX_TOLD);
    let mut arrivals: Vec<i64> = answered.iter().copied().filter(|&time| time > 0).collect();
    let lost = sent.len() - arrivals.len().min(sent.len());
    arrivals.sort_unstable();
    // The time before the first answer and after the last one counts as any other.
    arrivals.extend(sent.first().copied());
    arrivals.push(end_us);
    arrivals.sort_unstable();
    let mut gaps: Vec<(i64, f64)> = arrivals
        .windows(2)
        .filter_map(|pair| {
            Some((
                *pair.first()?,
                (pair.get(1)? - pair.first()?) as f64 / 1000.0,
            ))
        })
        .collect();
    gaps.sort_by(|a, b| b.1.total_cmp(&a.1));
    let longest_gap_ms = gaps.first().map_or(0.0, |gap| gap.1);
    let least_ms = interval.as_secs_f64() * 2500.0;
    gaps.retain(|gap| gap.1 > least_ms);
    gaps.truncate(MAX_TOLD);
    PingResult {
        sent: sent.len(),
        lost,
        longest_gap_ms,
        gaps,
        lost_at_us,
    }
}

fn send(
    socket: &OwnedFd,
    target: Ipv4Addr,
    identity: u16,
    interval: Duration,
    stop: &AtomicBool,
    record: &Mutex<Record>,
) {
    let address = SocketAddrV4::new(target, 0);
    let mut next = Instant::now();
    let mut number: u64 = 0;
    while !stop.load(Ordering::Relaxed) {
        let packet = request(identity, number);
        {
            let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
            record.sent.push(now_us());
            record.answered.push(0);
        }
        // A route that is not there yet loses the packet, as any other reason would.
        let _ = sendto(socket, &packet, SendFlags::DONTWAIT, &address);
        number += 1;
        next += interval;
        let now = Instant::now();
        match next.checked_duration_since(now) {
            Some(wait) => thread::sleep(wait),
            // Behind: what was missed is not made up for with a burst.
            None => next = now,
        }
    }
}

fn receive(socket: &OwnedFd, identity: u16, done: &AtomicBool, record: &Mutex<Record>) {
    let mut buffer = [0_u8; 2048];
    while !done.load(Ordering::Relaxed) {
        let Ok((size, _)) = recv(socket, buffer.as_mut_slice(), RecvFlags::empty()) else {
            continue;
        };
        let time = now_us();
        if let Some(number) = buffer
            .get(..size)
            .and_then(|packet| reply_number(packet, identity))
        {
            let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(slot @ 0) = usize::try_from(number)
                .ok()
                .and_then(|index| record.answered.get_mut(index))
            {
                *slot = time;
            }
        }
    }
}

fn request(identity: u16, number: u64) -> [u8; ICMP_HEADER_BYTES + 8] {
    let mut packet = [0; ICMP_HEADER_BYTES + 8];
    packet[0] = ECHO_REQUEST;
    packet[4..6].copy_from_slice(&identity.to_be_bytes());
    let [.., high, low] = number.to_be_bytes();
    packet[6..8].copy_from_slice(&[high, low]);
    packet[8..].copy_from_slice(&number.to_be_bytes());
    let check = checksum(&packet);
    packet[2..4].copy_from_slice(&check.to_be_bytes());
    packet
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// The number of the request that this IP packet answers, if it answers one of ours.
fn reply_number(packet: &[u8], identity: u16) -> Option<u64> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let icmp = packet.get(header..)?;
    if *icmp.first()? != ECHO_REPLY || icmp.get(4..6)? != identity.to_be_bytes() {
        return None;
    }
    Some(u64::from_be_bytes(icmp.get(8..16)?.try_into().ok()?))
}

/// Waits until `target` has answered five times.
pub fn reachable(netns: Option<&str>, target: Ipv4Addr, limit: Duration) -> Result<()> {
    let ping = Ping::start(netns, target, Duration::from_millis(50))?;
    let deadline = Instant::now() + limit;
    while ping.answered() < 5 {
        if Instant::now() > deadline {
            bail!("{target} did not answer within {} s", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_answered_is_recognised() {
        let packet = request(0xbeef, 70_000);
        assert_eq!(checksum(&packet), 0);
        let mut answer = vec![0x45; 20];
        answer.extend_from_slice(&packet);
        assert_eq!(reply_number(&answer, 0xbeef), None, "a request is no reply");
        answer[20] = ECHO_REPLY;
        assert_eq!(reply_number(&answer, 0xbeef), Some(70_000));
        assert_eq!(reply_number(&answer, 0xbeee), None);
        assert_eq!(reply_number(&answer[..30], 0xbeef), None);
    }

    #[test]
    fn gaps_are_between_answers_and_at_the_end() {
        let sent: Vec<i64> = (0..6).map(|n| 1_000_000 + n * 10_000).collect();
        let answered = [1_001_000, 0, 0, 1_031_000, 0, 0];
        let result = evaluate(&sent, &answered, 1_060_000, Duration::from_millis(10));
        assert_eq!((result.sent, result.lost), (6, 4));
        assert!((result.longest_gap_ms - 30.0).abs() < 1e-9, "{result:?}");
        assert!((result.gaps[1].1 - 29.0).abs() < 1e-9, "{result:?}");
        assert_eq!(
            result.gaps.len(),
            2,
            "what is no gap is not told: {result:?}"
        );
        assert_eq!(
            result.lost_at_us,
            [1_010_000, 1_020_000, 1_040_000, 1_050_000]
        );
    }
}
