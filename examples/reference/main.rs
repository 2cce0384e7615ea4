//! Brings the tables of keys in `docs/configuration.md` up to date with the program.
//!
//!     cargo run --example reference

mod tables;

use std::fs;
use std::io;
use std::path::Path;

fn main() -> io::Result<()> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = top.join(tables::DOCUMENT);
    let text = fs::read_to_string(&document)?;
    let now = tables::rewrite(&text, &tables::keys());
    if now != text {
        fs::write(&document, now)?;
    }
    Ok(())
}
