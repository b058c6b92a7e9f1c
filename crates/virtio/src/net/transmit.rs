//! From the driver's buffers to the backend (virtio 1.2, section 5.1.6.2).

use super::backend::VNET_HEADER_BYTES;
use super::shared::{Context, LONGEST_BYTES, add};
use crate::chain::{Buffers, RingError};
use crate::io_buffer::{IO_BUFFERS_MAX, skip, total_len};
use crate::queue::Virtqueue;
use memory::GuestRam;

/// Frames after which the driver sees its buffers back.
const FRAMES_PER_PUBLICATION: usize = 16;
/// Frames after which others get their turn.
const FRAMES_PER_TURN: usize = 256;

/// Transmission of one queue pair.
pub(super) struct Transmitter<'m> {
    queue: Virtqueue,
    index: usize,
    buffers: Buffers<'m>,
    complained: bool,
    /// The driver may have given frames.
    pub(super) ready: bool,
    /// The backend takes no more for now.
    pub(super) blocked: bool,
}

enum Sent {
    /// Taken, or lost.
    Done,
    /// Not now.
    Blocked,
}

impl<'m> Transmitter<'m> {
    pub(super) fn new(queue: Virtqueue, index: usize) -> Self {
        Self {
            queue,
            index,
            buffers: Buffers::default(),
            complained: false,
            ready: true,
            blocked: false,
        }
    }

    pub(super) fn into_queue(self) -> Virtqueue {
        self.queue
    }

    /// Sends frames until there are none, the backend blocks, or it is another's turn.
    pub(super) fn transmit(&mut self, context: &mut Context<'m>) -> Result<(), RingError> {
        let ram: &'m GuestRam = context.ram;
        self.queue.disable_notification(ram)?;
        for count in 1..=FRAMES_PER_TURN {
            let head = match self.queue.pop(ram)? {
                Some(head) => head,
                None if self.queue.enable_notification(ram)? => {
                    self.queue.disable_notification(ram)?;
                    continue;
                }
                None => {
                    self.ready = false;
                    break;
                }
            };
            self.buffers.clear();
            self.queue.resolve(ram, head, &mut self.buffers)?;
            // A frame given after a change of the rules goes by the new ones.
            context.renew();
            if let Sent::Blocked = self.send(context)? {
                self.queue.unpop(1);
                self.blocked = true;
                break;
            }
            self.queue.stage_used(ram, head, 0)?;
            if count % FRAMES_PER_PUBLICATION == 0 {
                self.give_back(context)?;
            }
        }
        self.buffers.clear();
        self.give_back(context)
    }

    fn give_back(&mut self, context: &Context<'_>) -> Result<(), RingError> {
        self.queue.publish(context.ram)?;
        if self.queue.wants_interrupt(context.ram)? {
            context.signals.queue(self.index);
        }
        Ok(())
    }

    fn send(&mut self, context: &Context<'_>) -> Result<Sent, RingError> {
        if !self.buffers.writable.is_empty() {
            return Err(RingError::Request(
                "a transmit buffer that the device may not read",
            ));
        }
        let frame = &mut self.buffers.readable;
        let bytes = total_len(frame);
        if bytes < VNET_HEADER_BYTES {
            return Err(RingError::Request("a frame without a header"));
        }
        let counters = context.counters;
        if !context.rules.link_up
            || bytes == VNET_HEADER_BYTES
            || bytes > LONGEST_BYTES
            || frame.len() > IO_BUFFERS_MAX
        {
            add(&counters.tx_dropped, 1);
            return Ok(Sent::Done);
        }
        let mut from = 0;
        if !context.vnet_header {
            skip(frame, VNET_HEADER_BYTES);
            from = frame.iter().take_while(|span| span.is_empty()).count();
        }
        let frame = frame.get(from..).unwrap_or(&[]);
        match context.shared.backend.send(context.pair, frame) {
            Ok(Some(_)) => {
                self.complained = false;
                add(&counters.tx_frames, 1);
                add(&counters.tx_bytes, bytes - VNET_HEADER_BYTES);
            }
            Ok(None) => return Ok(Sent::Blocked),
            Err(error) => {
                add(&counters.tx_dropped, 1);
                if !std::mem::replace(&mut self.complained, true) {
                    tracing::debug!(device = %context.shared.label, pair = context.pair, %error, "the host's side refused a frame");
                }
            }
        }
        Ok(Sent::Done)
    }
}
