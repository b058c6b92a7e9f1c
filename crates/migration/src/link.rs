//! The source's end of a channel: sections out, answers in.

use std::time::Duration;

use memory::{HostSpan, Ram};

use crate::cancel::CancelToken;
use crate::channel::iov::Piece;
use crate::channel::{Channel, ChannelError, Patience};
use crate::clock::Clock;
use crate::reason::Reason;
use crate::stream::{
    Farewell, Input, Kind, RamTable, Reader, Received, StreamError, prolog, section, section_of,
};

/// An answer that has begun to arrive is there within this.
const REST_OF_ANSWER: Duration = Duration::from_secs(10);

/// What ends a source's sending early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error("cancelled")]
    Cancelled,
    #[error("{0}")]
    Channel(ChannelError),
    #[error("the target refused: {0}")]
    Refused(String),
    #[error("the target answered something else than was due: {0}")]
    Answer(String),
    #[error("{0}")]
    Machine(#[from] Reason),
    /// The target was told to take over, and has not said what became of it.
    #[error(
        "nothing is known of the target since it was told to take over: {0}. The VM may be running there; it stays \
         stopped here. `cont` runs it here, once you are sure that it does not run on the target"
    )]
    Unknown(String),
}

impl From<ChannelError> for SendError {
    fn from(error: ChannelError) -> Self {
        match error {
            ChannelError::Cancelled => Self::Cancelled,
            error => Self::Channel(error),
        }
    }
}

/// The channel, and what of the stream has gone through it.
pub(crate) struct Link<'a> {
    channel: Channel,
    cancel: &'a CancelToken,
    clock: &'a dyn Clock,
    /// Bytes written.
    sent_bytes: u64,
    /// No section is half written.
    between_sections: bool,
    /// How long the other side may take nothing; while the VM runs, as long as it likes.
    stall: Option<Duration>,
}

struct Answers<'a> {
    channel: &'a Channel,
    cancel: &'a CancelToken,
    patience: Patience,
}

impl Input for Answers<'_> {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, ChannelError> {
        self.channel.fill(buffer, self.cancel, &self.patience)
    }

    fn fill_guest(&mut self, _span: HostSpan<'_>) -> Result<usize, ChannelError> {
        Err(ChannelError::Closed)
    }
}

fn read_answer(
    channel: &Channel,
    cancel: &CancelToken,
    patience: Patience,
) -> Result<Received, SendError> {
    let answers = Answers {
        channel,
        cancel,
        patience,
    };
    match Reader::new(answers).next() {
        Ok(Received::Failed(why)) => Err(SendError::Refused(why)),
        Ok(received) => Ok(received),
        Err(StreamError::Channel(error)) => Err(error.into()),
        Err(StreamError::Truncated { .. }) => Err(ChannelError::Closed.into()),
        Err(error) => Err(SendError::Answer(error.to_string())),
    }
}

impl<'a> Link<'a> {
    pub(crate) fn new(channel: Channel, cancel: &'a CancelToken, clock: &'a dyn Clock) -> Self {
        Self {
            channel,
            cancel,
            clock,
            sent_bytes: 0,
            between_sections: true,
            stall: None,
        }
    }

    /// From now on nobody waits longer for the other side to take what is sent.
    pub(crate) fn hurry(&mut self, stall: Duration) {
        self.stall = Some(stall);
    }

    pub(crate) fn is_bidirectional(&self) -> bool {
        self.channel.is_bidirectional()
    }

    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    fn write(&mut self, pieces: &mut [Piece<'_>]) -> Result<(), SendError> {
        let total: usize = pieces.iter().map(Piece::len).sum();
        // What the target says while we write can only be why it goes away.
        let mut said = None;
        self.between_sections = false;
        let cancel = self.cancel;
        let stall = self.stall.map(|stall| (stall, self.clock));
        let written = self
            .channel
            .write_all(pieces, cancel, stall, &mut |channel| {
                let patience = Patience::of(REST_OF_ANSWER);
                if let Err(error) = read_answer(channel, cancel, patience) {
                    said = Some(error);
                    return Err(ChannelError::Closed);
                }
                Ok(())
            });
        match (written, said) {
            (Ok(()), _) => {
                self.between_sections = true;
                self.sent_bytes = self.sent_bytes.saturating_add(total as u64);
                Ok(())
            }
            (Err(ChannelError::Cancelled), _) => Err(SendError::Cancelled),
            (Err(_), Some(said)) => Err(said),
            (Err(error), None) => Err(error.into()),
        }
    }

    pub(crate) fn prolog(&mut self) -> Result<(), SendError> {
        self.write(&mut [Piece::bytes(&prolog())])
    }

    /// Writes a section whose body is `value` in CBOR.
    pub(crate) fn send(
        &mut self,
        kind: Kind,
        value: &impl minicbor::Encode<()>,
        what: &str,
    ) -> Result<(), SendError> {
        let bytes = section_of(kind, value)
            .ok_or_else(|| Reason(format!("{what} is too large for the stream")))?;
        self.write(&mut [Piece::bytes(&bytes)])
    }

    /// Writes a RAM section: the table, and straight from guest memory the pages of the runs that have bytes.
    pub(crate) fn send_ram(&mut self, ram: &Ram, table: &RamTable) -> Result<(), SendError> {
        let head = table.encode();
        let mut pieces = vec![Piece::bytes(&head)];
        for run in table.runs().iter().filter(|run| run.bytes) {
            pieces.extend(ram.spans(run.pages).map_err(Reason::new)?.map(Piece::guest));
        }
        self.write(&mut pieces)
    }

    /// Waits for the answer `due`.
    pub(crate) fn expect(&self, due: Kind, within: Duration) -> Result<(), SendError> {
        let patience = Patience::by(self.clock, within);
        let received = read_answer(&self.channel, self.cancel, patience)?;
        match (due, &received) {
            (Kind::Ready, Received::Ready)
            | (Kind::Loaded, Received::Loaded)
            | (Kind::Resumed, Received::Resumed) => Ok(()),
            _ => Err(SendError::Answer(received.name().to_owned())),
        }
    }

    /// Says why the target has gone away, after something else showed that it has.
    pub(crate) fn farewell(&self) -> SendError {
        match read_answer(&self.channel, self.cancel, Patience::of(REST_OF_ANSWER)) {
            Ok(received) => SendError::Answer(received.name().to_owned()),
            Err(error) => error,
        }
    }

    /// Writes `Go`. An error means that the target cannot have got it: the write is of a few bytes into a buffer the target has
    /// emptied, so either all of it was taken or the target will never see a whole one.
    pub(crate) fn go(&mut self) -> Result<(), SendError> {
        let bytes = section(Kind::Go, &[]).unwrap_or_default();
        self.write(&mut [Piece::bytes(&bytes)])
    }

    /// Tells the target that the source keeps its VM. It may not get it; it may then no longer run it either.
    pub(crate) fn abandon(self, why: &str) {
        if self.between_sections
            && let Some(bytes) = section_of(Kind::Abandon, &Farewell::new(why))
        {
            self.channel.try_write(&bytes);
        }
    }

    /// Whether the stream goes one way, to somebody who may act on it as it comes.
    pub(crate) fn is_pipe(&self) -> bool {
        self.channel.is_pipe()
    }

    /// Ends a one-way stream.
    pub(crate) fn finish(self, within: Duration) -> Result<(), SendError> {
        self.channel
            .finish(self.cancel, &Patience::by(self.clock, within))
            .map_err(SendError::from)
    }
}
