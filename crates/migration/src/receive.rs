//! Reading a stream: the order of its sections, what both sides must have in common, pages into RAM.

use std::sync::Arc;

use memory::{DirtyPages, HostSpan, PAGE_SIZE_BYTES, PageRun, Ram};

use crate::channel::ChannelError;
use crate::incoming::Target;
use crate::payloads::DevicePayloads;
use crate::reason::Reason;
use crate::stream::{Configuration, DeviceShape, Input, Kind, Reader, Received, Run, StreamError};

/// What keeps a target from taking over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IncomingError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("{0}")]
    Machine(#[from] Reason),
    #[error("the source gave up: {0}")]
    Abandoned(String),
    #[error(
        "the source waits for answers, which this channel cannot carry: use tcp: or unix: on both sides"
    )]
    NoWayBack,
}

/// Where a stream comes from, and whether it can be answered.
pub(crate) trait Peer: Input {
    /// The source said that it reads answers.
    fn expect_answers(&mut self) -> Result<(), IncomingError>;
    /// Sends an answer, if the source reads any.
    fn answer(&mut self, kind: Kind) -> Result<(), ChannelError>;
    /// Makes breaking off impossible; `false` if it was broken off before.
    fn seal(&mut self) -> bool;
}

/// Reads a stream to its end. The VM runs here, if it did there, when this returns `Ok`; and does not otherwise.
pub(crate) fn receive(
    peer: &mut (impl Peer + ?Sized),
    target: &mut dyn Target,
    validate_uuid: bool,
) -> Result<(), IncomingError> {
    let mut reader = Reader::new(PeerInput(peer));
    reader.prolog()?;
    let theirs = match reader.next()? {
        Received::Configuration(configuration) => configuration,
        other => return Err(unexpected(&reader, &other).into()),
    };
    if theirs.answers {
        reader.input_mut().0.expect_answers()?;
    }
    let own = target.configuration()?;
    let blocks = compare(&own, &theirs, validate_uuid)?;
    target.prepare(&theirs)?;
    reader.input_mut().0.answer(Kind::Ready)?;

    let mut loader = RamLoader::new(target.ram(), blocks)?;
    let mut payloads = DevicePayloads::default();
    let run = loop {
        match reader.next()? {
            Received::Ram(runs) => {
                if loader.pages == 0 {
                    target.memory_comes();
                }
                loader.load(&mut reader, &runs)?;
            }
            Received::PassEnd(end) if end.pages == loader.pages => {}
            Received::Device(payload) => payloads.add(payload)?,
            Received::TakeOver(end)
                if end.pages == loader.pages && end.devices == payloads.len() as u64 =>
            {
                break end.run;
            }
            Received::PassEnd(_) | Received::TakeOver(_) => {
                return Err(reader.corrupt("pages or devices are missing").into());
            }
            Received::Abandon(why) => return Err(IncomingError::Abandoned(why)),
            other => return Err(unexpected(&reader, &other).into()),
        }
    };
    target.load_devices(&mut payloads)?;
    payloads.finish()?;

    if theirs.answers {
        reader.input_mut().0.answer(Kind::Loaded)?;
        match reader.next()? {
            Received::Go => {}
            Received::Abandon(why) => return Err(IncomingError::Abandoned(why)),
            other => return Err(unexpected(&reader, &other).into()),
        }
    }
    if !reader.input_mut().0.seal() {
        return Err(ChannelError::Cancelled.into());
    }
    target.resume(run)?;
    if let Err(error) = reader.input_mut().0.answer(Kind::Resumed) {
        tracing::warn!(
            "the VM runs here, but the source could not be told: {error}; do not `cont` it there"
        );
    }
    Ok(())
}

fn unexpected<I: Input>(reader: &Reader<I>, received: &Received) -> StreamError {
    reader.corrupt(format!("{} is not due here", received.name()))
}

/// Lends a peer to a reader.
struct PeerInput<'a, P: ?Sized>(&'a mut P);

impl<P: Peer + ?Sized> Input for PeerInput<'_, P> {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, ChannelError> {
        self.0.fill(buffer)
    }

    fn fill_guest(&mut self, span: HostSpan<'_>) -> Result<usize, ChannelError> {
        self.0.fill_guest(span)
    }
}

/// Refuses a source that is another machine. Answers, for each of the source's RAM blocks, with the index of ours.
fn compare(
    own: &Configuration,
    theirs: &Configuration,
    validate_uuid: bool,
) -> Result<Vec<usize>, Reason> {
    let refuse = |why: String| Err(Reason(why));
    if u64::from(theirs.page_bytes) != PAGE_SIZE_BYTES {
        return refuse(format!(
            "the stream counts in pages of {} bytes, this program in {PAGE_SIZE_BYTES}",
            theirs.page_bytes
        ));
    }
    if theirs.machine != own.machine {
        return refuse(format!(
            "Machine type received is '{}' and local is '{}'",
            theirs.machine, own.machine
        ));
    }
    if validate_uuid && theirs.uuid != own.uuid {
        let show = |uuid: &Option<String>| uuid.clone().unwrap_or_else(|| "none".to_owned());
        return refuse(format!(
            "UUID received is {} and local is {}",
            show(&theirs.uuid),
            show(&own.uuid)
        ));
    }
    let mut blocks = Vec::with_capacity(own.blocks.len());
    for block in &theirs.blocks {
        let Some(at) = own.blocks.iter().position(|own| own.name == block.name) else {
            return refuse(format!(
                "Unknown ramblock \"{}\", cannot accept migration",
                block.name
            ));
        };
        let size = own.blocks.get(at).map_or(0, |own| own.size_bytes);
        if size != block.size_bytes {
            return refuse(format!(
                "Size mismatch: {}: {:#x} != {size:#x}: start the target with the source's -m",
                block.name, block.size_bytes
            ));
        }
        if blocks.contains(&at) {
            return refuse(format!("RAM block '{}' comes twice", block.name));
        }
        blocks.push(at);
    }
    if let Some(missing) = (0..own.blocks.len())
        .find(|at| !blocks.contains(at))
        .and_then(|at| own.blocks.get(at))
    {
        return refuse(format!(
            "RAM block '{}' does not exist on the source: start the target with the source's memory",
            missing.name
        ));
    }
    compare_devices(&own.devices, &theirs.devices)?;
    Ok(blocks)
}

fn compare_devices(own: &[DeviceShape], theirs: &[DeviceShape]) -> Result<(), Reason> {
    let find = |list: &[DeviceShape], shape: &DeviceShape| {
        list.iter().find(|other| other.name == shape.name).cloned()
    };
    let remedy = |shape: &DeviceShape| {
        let option = shape.option.as_deref().unwrap_or("devices");
        format!("start the target with the source's {option}")
    };
    for shape in theirs {
        let (name, model) = (&shape.name, &shape.model);
        match find(own, shape) {
            None => {
                return Err(Reason(format!(
                    "device '{name}' ({model}) of the source does not exist here: {}",
                    remedy(shape)
                )));
            }
            Some(here) if here.model != *model => {
                return Err(Reason(format!(
                    "device '{name}' is a {model} on the source and a {} here: {}",
                    here.model,
                    remedy(&here)
                )));
            }
            Some(_) => {}
        }
    }
    match own.iter().find(|shape| find(theirs, shape).is_none()) {
        Some(shape) => Err(Reason(format!(
            "device '{}' ({}) does not exist on the source: {}",
            shape.name,
            shape.model,
            remedy(shape)
        ))),
        None => Ok(()),
    }
}

/// Puts pages where they belong.
struct RamLoader {
    ram: Arc<Ram>,
    blocks: Vec<usize>,
    /// Pages that may contain something else than zeroes.
    touched: DirtyPages,
    /// Pages received, zero pages among them.
    pages: u64,
}

impl RamLoader {
    fn new(ram: Arc<Ram>, blocks: Vec<usize>) -> Result<Self, Reason> {
        let mut touched = DirtyPages::clean(&ram);
        for (block, shape) in ram.blocks().iter().enumerate() {
            let all = PageRun {
                block,
                first: 0,
                count: shape.pages(),
            };
            for extent in ram.extents(all).map_err(Reason::new)? {
                if extent.populated {
                    touched.mark(extent.run);
                }
            }
        }
        Ok(Self {
            ram,
            blocks,
            touched,
            pages: 0,
        })
    }

    fn load<I: Input>(
        &mut self,
        reader: &mut Reader<I>,
        runs: &[Run],
    ) -> Result<(), IncomingError> {
        for run in runs {
            let block = self
                .blocks
                .get(run.pages.block)
                .ok_or_else(|| reader.corrupt(format!("RAM block {}", run.pages.block)))?;
            let pages = PageRun {
                block: *block,
                ..run.pages
            };
            let ram = self.ram.clone();
            let spans = ram
                .spans(pages)
                .map_err(|error| reader.corrupt(error.to_string()))?;
            if run.bytes {
                self.touched.mark(pages);
                for span in spans {
                    reader.read_guest(span)?;
                }
            } else {
                self.zero(pages)?;
            }
            self.pages = self.pages.saturating_add(pages.count);
        }
        Ok(())
    }

    fn zero(&mut self, pages: PageRun) -> Result<(), Reason> {
        let end = pages.first + pages.count;
        let mut from = pages.first;
        while let Some(mut run) = self
            .touched
            .next_run(pages.block, from, end.saturating_sub(from))
            .filter(|run| run.first < end)
        {
            run.count = run.count.min(end - run.first);
            self.ram.zero_pages(run).map_err(Reason::new)?;
            self.touched.clear(run);
            from = run.first + run.count;
        }
        Ok(())
    }
}
