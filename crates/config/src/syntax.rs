//! QEMU's option strings, and JSON in their stead, as one ordered map.
//!
//! ```text
//! -device virtio-net-pci,netdev=n0,failover=on        first word: the implied key (here `driver`)
//! -chardev socket,id=c0,path=/tmp/a,,b,server,wait=off  `,,` is a comma; `server` is server=on, `nowait` is wait=off
//! -device {"driver":"virtio-net-pci","failover":true}  JSON; nested objects become dotted keys
//! ```
//!
//! [`Options`] is the map, [`Reader`] takes typed values out of it and complains about what is left.

mod options;
mod reader;
mod scalar;

pub use options::{Options, Source, Value};
pub use reader::Reader;
pub(crate) use reader::{bool_of, check_id};
pub use scalar::{nearest, parse_bool, parse_number, parse_signed, parse_size};
