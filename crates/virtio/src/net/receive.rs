//! From the backend into the driver's buffers (virtio 1.2, section 5.1.6.4).
//!
//! The kernel writes straight into guest memory: a window of posted buffers, always long enough for the longest frame,
//! is kept resolved across frames, so that each buffer is walked once however many frames come. Where the
//! driver posted too little for that, a frame takes the way over a buffer of our own and waits there.

use super::backend::VNET_HEADER_BYTES;
use super::filter::DECIDING_BYTES;
use super::shared::{Context, LONGEST_BYTES, add};
use crate::chain::{Buffers, RingError, mark_written};
use crate::io_buffer::{IO_BUFFERS_MAX, IoBuffer, gather, scatter};
use crate::queue::Virtqueue;
use memory::GuestRam;
use std::collections::VecDeque;

/// Frames after which the driver is interrupted if it wants to be, even if more are there.
const FRAMES_PER_INTERRUPT: usize = 16;
/// Frames after which others get their turn.
const FRAMES_PER_TURN: usize = 64;
/// Where the number of buffers is in the header.
const NUM_BUFFERS_OFFSET: usize = 10;

#[derive(Clone, Copy)]
struct Posted {
    head: u16,
    buffers: usize,
    bytes: u32,
}

/// Buffers taken from the ring and not yet given back, resolved.
#[derive(Default)]
struct Window<'m> {
    buffers: Buffers<'m>,
    /// The first buffer that still counts.
    first: usize,
    posted: VecDeque<Posted>,
    bytes: usize,
}

impl<'m> Window<'m> {
    /// Takes chains from the ring until the window holds `bytes`.
    fn fill(
        &mut self,
        queue: &mut Virtqueue,
        ram: &'m GuestRam,
        bytes: usize,
    ) -> Result<(), RingError> {
        while self.bytes < bytes && self.posted.len() < usize::from(queue.size()) {
            let Some(head) = queue.pop(ram)? else {
                break;
            };
            self.compact();
            let before = self.buffers.writable.len();
            let count = queue.resolve(ram, head, &mut self.buffers)?;
            if !self.buffers.readable.is_empty() {
                return Err(RingError::Request(
                    "a receive buffer that the device may not write",
                ));
            }
            if (count as usize) < VNET_HEADER_BYTES {
                return Err(RingError::Request(
                    "a receive buffer without room for a header",
                ));
            }
            self.posted.push_back(Posted {
                head,
                buffers: self.buffers.writable.len() - before,
                bytes: count,
            });
            self.bytes += count as usize;
        }
        Ok(())
    }

    /// Forgets what does not count any more once it is much.
    fn compact(&mut self) {
        if self.first >= IO_BUFFERS_MAX / 2 {
            self.buffers.writable.drain(..self.first);
            self.buffers.writable_at.drain(..self.first);
            self.first = 0;
        }
    }

    fn is_empty(&self) -> bool {
        self.posted.is_empty()
    }

    /// Where the next frame goes: everything, or the first chain only.
    fn target(&self, mergeable: bool) -> (&[IoBuffer<'m>], usize) {
        let all = self.buffers.writable.get(self.first..).unwrap_or(&[]);
        match self.posted.front() {
            Some(chain) if !mergeable => (
                all.get(..chain.buffers).unwrap_or(&[]),
                chain.bytes as usize,
            ),
            _ => (all, self.bytes),
        }
    }

    /// The first `bytes` bytes hold a frame: gives its chains back to the driver. Returns how many they were.
    fn give_back(
        &mut self,
        queue: &mut Virtqueue,
        ram: &GuestRam,
        bytes: usize,
    ) -> Result<u16, RingError> {
        let at = self.buffers.writable_at.get(self.first..).unwrap_or(&[]);
        let buffers = self.buffers.writable.get(self.first..).unwrap_or(&[]);
        let mut left = bytes;
        let mut chains: u16 = 0;
        let mut ends = 0;
        for chain in &self.posted {
            left = left.saturating_sub(chain.bytes as usize);
            chains += 1;
            ends += chain.buffers;
            if left == 0 {
                break;
            }
        }
        let count = chains.to_le_bytes();
        scatter(buffers, NUM_BUFFERS_OFFSET, &count);
        // A frame's bytes fill its chains without a gap, but the last chain's end.
        mark_written(ram, buffers, at, bytes);
        let mut left = bytes;
        for chain in self.posted.drain(..usize::from(chains)) {
            let here = left.min(chain.bytes as usize);
            left -= here;
            self.bytes -= chain.bytes as usize;
            queue.stage_used(ram, chain.head, u32::try_from(here).unwrap_or(chain.bytes))?;
        }
        self.first += ends;
        if self.posted.is_empty() {
            self.buffers.clear();
            self.first = 0;
        }
        Ok(chains)
    }

    /// Returns the chains to the ring, as if they had never been taken.
    fn put_back(&mut self, queue: &mut Virtqueue) {
        queue.unpop(u16::try_from(self.posted.len()).unwrap_or(0));
        *self = Self::default();
    }
}

/// Reception of one queue pair.
pub(super) struct Receiver<'m> {
    queue: Virtqueue,
    index: usize,
    mergeable: bool,
    window: Window<'m>,
    bounce: Vec<u8>,
    /// Bytes of the frame that waits in `bounce`; 0: none.
    waiting: usize,
    complained: bool,
    /// The backend may have frames.
    pub(super) ready: bool,
    /// Frames wait for the driver to give buffers.
    pub(super) starved: bool,
}

enum Step {
    /// A frame was dealt with.
    Done,
    /// The backend has no more.
    Drained,
    /// The driver gave too few buffers.
    Starved,
}

impl<'m> Receiver<'m> {
    /// `waiting`: a frame that waited for buffers when the pair was stopped, with header; empty if none.
    pub(super) fn new(queue: Virtqueue, index: usize, mergeable: bool, waiting: Vec<u8>) -> Self {
        Self {
            queue,
            index,
            mergeable,
            window: Window::default(),
            waiting: waiting.len(),
            bounce: waiting,
            complained: false,
            ready: true,
            // Until the first look at the ring, which then asks the driver to be silent.
            starved: true,
        }
    }

    /// Whether a frame waits here for the driver's buffers.
    pub(super) fn waits(&self) -> bool {
        self.waiting != 0
    }

    /// Gives up the queue, and the frame that waits.
    pub(super) fn into_parts(mut self) -> (Virtqueue, Vec<u8>) {
        self.window.put_back(&mut self.queue);
        self.bounce.truncate(self.waiting);
        (self.queue, self.bounce)
    }

    /// The driver gave buffers.
    pub(super) fn kicked(&mut self, ram: &GuestRam) -> Result<(), RingError> {
        if std::mem::take(&mut self.starved) {
            self.queue.disable_notification(ram)?;
        }
        Ok(())
    }

    /// Takes frames from the backend until there are none, the driver's buffers are used up, or it is another's turn.
    pub(super) fn receive(&mut self, context: &mut Context<'m>) -> Result<(), RingError> {
        let mut unannounced = 0;
        for _ in 0..FRAMES_PER_TURN {
            let step = if context.open() {
                self.step(context)?
            } else {
                self.discard(context)?
            };
            match step {
                Step::Done => {
                    unannounced += 1;
                    self.queue.publish(context.ram)?;
                    if unannounced >= FRAMES_PER_INTERRUPT {
                        unannounced = 0;
                        self.announce(context)?;
                    }
                }
                Step::Drained => {
                    self.ready = false;
                    break;
                }
                Step::Starved => {
                    // Whatever was given so far must reach the driver: it refills when it has seen it.
                    if self.queue.enable_notification(context.ram)? {
                        self.queue.disable_notification(context.ram)?;
                    } else {
                        add(&context.counters.rx_starved, 1);
                        self.starved = true;
                        break;
                    }
                }
            }
        }
        self.announce(context)
    }

    fn announce(&mut self, context: &Context<'_>) -> Result<(), RingError> {
        if self.queue.wants_interrupt(context.ram)? {
            context.signals.queue(self.index);
        }
        Ok(())
    }

    fn step(&mut self, context: &mut Context<'m>) -> Result<Step, RingError> {
        if self.waiting != 0 {
            return self.deliver(context);
        }
        self.window
            .fill(&mut self.queue, context.ram, context.longest)?;
        if self.window.is_empty() {
            return Ok(Step::Starved);
        }
        let (target, room) = self.window.target(self.mergeable);
        if !context.vnet_header || room < context.longest || target.len() > IO_BUFFERS_MAX {
            return self.bounce(context);
        }
        let outcome = context.shared.backend.recv(context.pair, target);
        let Some(bytes) = self.outcome(context, outcome) else {
            return Ok(Step::Drained);
        };
        let (target, _) = self.window.target(self.mergeable);
        let mut beginning = [0; DECIDING_BYTES];
        let seen = gather(target, VNET_HEADER_BYTES, &mut beginning);
        let beginning = beginning.get(..seen).unwrap_or(&[]);
        if !self.wanted(context, bytes, beginning) {
            return Ok(Step::Done);
        }
        self.window.give_back(&mut self.queue, context.ram, bytes)?;
        count_received(context, bytes);
        Ok(Step::Done)
    }

    fn outcome(
        &mut self,
        context: &Context<'_>,
        outcome: std::io::Result<Option<usize>>,
    ) -> Option<usize> {
        match outcome {
            Ok(bytes) => bytes,
            Err(error) => {
                if !std::mem::replace(&mut self.complained, true) {
                    tracing::warn!(device = %context.shared.label, pair = context.pair, %error, "the host's side gives no frames");
                }
                None
            }
        }
    }

    /// Whether a frame of `bytes` bytes with header is whole and passes the driver's filter.
    fn wanted(&mut self, context: &mut Context<'_>, bytes: usize, beginning: &[u8]) -> bool {
        self.complained = false;
        let longest = context.longest;
        // A frame that came after a change of the rules is judged by the new ones.
        context.renew();
        if bytes <= VNET_HEADER_BYTES || bytes >= longest || !context.open() {
            // A runt, one that may have been cut off, or the link is down.
            add(&context.counters.rx_dropped, 1);
            return false;
        }
        let wanted = context.rules.filter.accepts(beginning);
        if !wanted {
            add(&context.counters.rx_filtered, 1);
        }
        wanted
    }

    /// Receives over the buffer of our own.
    fn bounce(&mut self, context: &mut Context<'m>) -> Result<Step, RingError> {
        match self.take_into_bounce(context) {
            Some(bytes) => self.judge(context, bytes),
            None => Ok(Step::Drained),
        }
    }

    /// Delivers the frame of `bytes` bytes in the buffer of our own, if it is wanted.
    fn judge(&mut self, context: &mut Context<'m>, bytes: usize) -> Result<Step, RingError> {
        let end = bytes.min(VNET_HEADER_BYTES + DECIDING_BYTES);
        let mut beginning = [0; DECIDING_BYTES];
        let frame = self.bounce.get(VNET_HEADER_BYTES..end).unwrap_or(&[]);
        let seen = frame.len();
        for (to, from) in beginning.iter_mut().zip(frame) {
            *to = *from;
        }
        if !self.wanted(context, bytes, beginning.get(..seen).unwrap_or(&[])) {
            return Ok(Step::Done);
        }
        self.waiting = bytes;
        self.deliver(context)
    }

    /// The length of the frame, with header, that is now in the buffer of our own.
    fn take_into_bounce(&mut self, context: &Context<'_>) -> Option<usize> {
        self.bounce.resize(LONGEST_BYTES, 0);
        let header = if context.vnet_header {
            0
        } else {
            VNET_HEADER_BYTES
        };
        let (before, room) = self.bounce.split_at_mut(header);
        before.fill(0);
        let target = [IoBuffer::of_bytes(room)];
        let outcome = context.shared.backend.recv(context.pair, &target);
        self.outcome(context, outcome).map(|bytes| bytes + header)
    }

    /// Copies the frame that waits into the driver's buffers, or goes on waiting.
    fn deliver(&mut self, context: &Context<'m>) -> Result<Step, RingError> {
        self.window
            .fill(&mut self.queue, context.ram, self.waiting)?;
        if self.window.is_empty() {
            return Ok(Step::Starved);
        }
        let (target, room) = self.window.target(self.mergeable);
        if room < self.waiting {
            if self.mergeable && self.window.posted.len() < usize::from(self.queue.size()) {
                return Ok(Step::Starved);
            }
            // It will never fit.
            self.waiting = 0;
            add(&context.counters.rx_dropped, 1);
            return Ok(Step::Done);
        }
        let frame = self.bounce.get(..self.waiting).unwrap_or(&[]);
        scatter(target, 0, frame);
        let bytes = std::mem::take(&mut self.waiting);
        self.window.give_back(&mut self.queue, context.ram, bytes)?;
        count_received(context, bytes);
        Ok(Step::Done)
    }

    /// The link is down: frames are lost.
    fn discard(&mut self, context: &mut Context<'m>) -> Result<Step, RingError> {
        if std::mem::take(&mut self.waiting) == 0 {
            let Some(bytes) = self.take_into_bounce(context) else {
                return Ok(Step::Drained);
            };
            context.renew();
            if context.open() {
                // It came after the link was up again.
                return self.judge(context, bytes);
            }
        }
        add(&context.counters.rx_dropped, 1);
        Ok(Step::Done)
    }
}

fn count_received(context: &Context<'_>, bytes: usize) {
    add(&context.counters.rx_frames, 1);
    add(
        &context.counters.rx_bytes,
        bytes.saturating_sub(VNET_HEADER_BYTES),
    );
}
