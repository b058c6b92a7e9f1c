//! Loading the modules that an image brought along, in the order it says.

use std::fs::{self, File};

/// Loads every module of `/modules/order` but those named in `skip`; tells what failed and goes on.
pub fn load_all(skip: &[&str]) {
    let order = fs::read_to_string("/modules/order").unwrap_or_default();
    for name in order.lines().filter(|name| !skip.contains(name)) {
        if let Err(error) = load(name) {
            println!("lab: module {name}: {error}");
        }
    }
}

/// Loads one module of the image.
pub fn load(name: &str) -> std::io::Result<()> {
    let file = File::open(format!("/modules/{name}.ko"))?;
    rustix::system::finit_module(&file, c"", 0)?;
    Ok(())
}
