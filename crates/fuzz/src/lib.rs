//! Fuzz targets for everything that reads what a guest, a monitor's client, a migration's source or a user sent.
//!
//! ```text
//!   cargo xtask fuzz ──▶ this crate's program with libFuzzer as its main loop ─┐
//!   cargo test -p fuzz ──▶ every seed and every input that once crashed ───────┼──▶ Target::run ──▶ the crates' entries
//!   fuzz TARGET FILE… (an ordinary build, for a debugger) ─────────────────────┘
//! ```
//!
//! The promise, for each input: it ends, nothing panics (overflow and debug assertions are checked), and the heap has at most
//! [`Target::heap_bytes`] more in use meanwhile than before. A target finds out by itself what a good input looks like: its
//! seeds and words are made of the tables that the program itself reads.
//!
//! An input that crashed stays as `regressions/TARGET/NAME`, where all three ways above find it.

pub mod heap;
mod options;
mod state;

use std::path::{Path, PathBuf};

/// One reader of outside input.
#[derive(Debug)]
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// Whose input it is.
    pub what: &'static str,
    /// The entry: it must return, whatever the bytes.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words that mean something in this input.
    pub words: fn() -> Vec<String>,
    /// How much the heap may grow over one input, in bytes.
    pub heap_bytes: usize,
    /// The longest input tried, in bytes.
    pub longest_bytes: usize,
}

const MIB: usize = 1 << 20;

fn none<T>() -> Vec<T> {
    Vec::new()
}

/// All of them.
pub static TARGETS: &[Target] = &[
    Target {
        name: "qmp",
        what: "a client of QMP",
        run: monitor::fuzz::fuzz_qmp,
        seeds: monitor::fuzz::qmp_seeds,
        words: monitor::fuzz::qmp_words,
        heap_bytes: 16 * MIB,
        longest_bytes: 4096,
    },
    Target {
        name: "hmp",
        what: "whoever types at the human monitor",
        run: monitor::fuzz::fuzz_hmp,
        seeds: monitor::fuzz::hmp_seeds,
        words: monitor::fuzz::hmp_words,
        heap_bytes: 16 * MIB,
        longest_bytes: 1024,
    },
    Target {
        name: "options",
        what: "the command line, a word a line",
        run: options::run,
        seeds: options::seeds,
        words: options::words,
        heap_bytes: 16 * MIB,
        longest_bytes: 2048,
    },
    Target {
        name: "bus",
        what: "a guest at configuration space, the hotplug block at 0xcc0 and the regions",
        run: pci::fuzz_bus,
        seeds: pci::fuzz_bus_seeds,
        words: none,
        heap_bytes: 16 * MIB,
        longest_bytes: 4096,
    },
    Target {
        name: "queue",
        what: "a hostile driver in the rings of network (with control queue) and block devices",
        run: virtio::fuzz_queue,
        seeds: virtio::fuzz_queue_seeds,
        words: none,
        heap_bytes: 16 * MIB,
        longest_bytes: 0x3000,
    },
    Target {
        name: "stream",
        what: "a migration's source",
        run: migration::fuzz::fuzz_stream,
        seeds: migration::fuzz::stream_seeds,
        words: none,
        heap_bytes: 16 * MIB,
        longest_bytes: 0x4000,
    },
    Target {
        name: "state",
        what: "saved state: of virtio functions, then their registers; of chipset and vCPUs, then the chipset's ports",
        run: state::run,
        seeds: state::seeds,
        words: none,
        heap_bytes: 16 * MIB,
        longest_bytes: 4096,
    },
    Target {
        name: "qtest",
        what: "a client of -qtest",
        run: hypervisor::qtest::fuzz::fuzz_lines,
        seeds: hypervisor::qtest::fuzz::line_seeds,
        words: none,
        // A read of 16 MiB is allowed: its bytes, its digits, and the answer around them.
        heap_bytes: 160 * MIB,
        longest_bytes: 512,
    },
    Target {
        name: "board",
        what: "a client of -qtest and a monitor's at a whole machine with a pair",
        run: machine::fuzz_board::fuzz_board,
        seeds: machine::fuzz_board::board_seeds,
        words: machine::fuzz_board::board_words,
        // As above, and the machine.
        heap_bytes: 192 * MIB,
        longest_bytes: 2048,
    },
];

impl Target {
    /// The target of that name.
    pub fn find(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Plays one input, within the target's bound where the program counts its heap.
    pub fn play(&self, input: &[u8]) {
        heap::within(self.heap_bytes, || (self.run)(input));
    }

    /// Where inputs are kept that once crashed.
    pub fn regressions(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("regressions")
            .join(self.name)
    }

    /// Writes the seeds as files `seed-N` into `folder`, and the words as libFuzzer reads them into `folder`.words.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write_seeds(&self, folder: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        for (index, seed) in (self.seeds)().iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{index}")), seed)?;
        }
        // libFuzzer refuses an empty file.
        let mut words = "# words\n".to_owned();
        for word in (self.words)() {
            words.push('"');
            for byte in word.bytes() {
                match byte {
                    b'"' | b'\\' => words.push_str(&format!("\\{}", char::from(byte))),
                    b' '..=b'~' => words.push(char::from(byte)),
                    _ => words.push_str(&format!("\\x{byte:02X}")),
                }
            }
            words.push_str("\"\n");
        }
        std::fs::write(folder.with_extension("words"), words)
    }
}
