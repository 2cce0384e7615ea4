//! What a document says of the memory that a configuration can take is what `adit check` says of it.

use std::fs;
use std::path::Path;

use adit::schema::{Environment, Flags};
use adit::server::lifecycle::memory_bound::MemoryBound;
use adit::server::options::ServerOptions;

use super::{configurations, documents, top};

/// The comment that says it: `# adit check says: 1012 MiB if everybody means harm at once`.
const SAID: &str = "# adit check says: ";

/// What is said of a block, and what `adit check` would say.
fn said_and_true(block: &str) -> Option<(String, String)> {
    let said = block.lines().find_map(|line| line.strip_prefix(SAID))?;
    let config = ServerOptions::from_text(Path::new("server.toml"), block, &Environment::default(), &Flags::new());
    Some((said.to_owned(), MemoryBound::of(&config.unwrap()).to_string()))
}

#[test]
fn the_memory_that_a_document_promises_is_what_check_says() {
    let (mut checked, mut wrong) = (0, Vec::new());
    for document in documents() {
        for (line, block) in configurations(&fs::read_to_string(&document).unwrap()) {
            let Some((said, is)) = said_and_true(&block) else { continue };
            checked += 1;
            if !is.starts_with(&format!("{said}:")) {
                wrong.push(format!("{}:{line}: not {said}, but {is}", document.strip_prefix(top()).unwrap().display()));
            }
        }
    }
    assert!(checked >= 3, "only {checked} found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
