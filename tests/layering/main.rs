//! Reads the sources and refuses what the architecture forbids (`docs/architecture.md`): imports that go upward or in
//! circles, and functions, structs and files that have grown too large.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod graph;
mod sources;

use std::collections::BTreeSet;
use std::path::Path;

use Allowed::{AllBelow, Only};
use graph::Graph;
use sources::{Module, ModulePath, Sources};

/// The modules that a module may import.
enum Allowed {
    Only(&'static [&'static str]),
    /// Every module that is listed before it in [`MODULES`].
    AllBelow,
}

/// The top-level modules, lowest first, each with those that it may import.
const MODULES: &[(&str, Allowed)] = &[
    ("values", Only(&[])),
    ("files", Only(&[])),
    ("schema", Only(&[])),
    ("protocol", Only(&["values"])),
    ("routing", Only(&["values"])),
    ("limits", Only(&["values"])),
    ("certs", Only(&["values", "files"])),
    ("auth", Only(&["values", "files", "limits"])),
    ("tenants", Only(&["values", "files", "schema", "limits", "protocol", "routing", "auth"])),
    ("access", Only(&["values", "protocol", "limits", "auth"])),
    ("transport", Only(&["values", "protocol", "limits", "certs"])),
    ("link", Only(&["values", "protocol", "limits", "transport"])),
    ("telemetry", Only(&["values", "files", "schema", "transport"])),
    ("server", AllBelow),
    ("agent", Only(&["values", "files", "schema", "protocol", "limits", "transport", "link", "telemetry"])),
    ("config", Only(&["values", "files", "schema", "tenants", "telemetry", "server", "agent"])),
    ("cli", AllBelow),
    ("sdk", Only(&["values", "transport", "agent"])),
];

/// The most lines that a file may have without its tests, and a function.
const MAX_FILE: usize = 400;
const MAX_FUNCTION: usize = 60;

/// The most fields of a struct that is no configuration record.
const MAX_FIELDS: usize = 10;

fn sources() -> Sources {
    let sources = Sources::of_crate(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(sources.modules.len() > 100, "only {} modules were read", sources.modules.len());
    sources
}

/// Fails with one line for each violation.
fn none(violations: impl IntoIterator<Item = String>) {
    let violations: BTreeSet<String> = violations.into_iter().collect();
    let lines: Vec<_> = violations.iter().map(String::as_str).collect();
    assert!(lines.is_empty(), "{} violations:\n{}", lines.len(), lines.join("\n"));
}

/// Every import of the crate: who imports, and what.
fn imports(sources: &Sources) -> impl Iterator<Item = (&ModulePath, &Module, &ModulePath)> {
    sources.modules.iter().flat_map(|(at, module)| module.imports.iter().map(move |import| (at, module, import)))
}

#[test]
fn each_top_level_module_imports_only_what_it_may() {
    let sources = sources();
    none(imports(&sources).filter_map(|(at, module, import)| {
        let (from, to) = (at.first()?, sources.module_of(import).first()?);
        let rank = |module: &String| MODULES.iter().position(|(name, _)| name == module);
        let is_allowed = from == to
            || match &MODULES[rank(from)?].1 {
                Only(allowed) => allowed.contains(&to.as_str()),
                AllBelow => rank(to).is_some_and(|to| Some(to) < rank(from)),
            };
        (!is_allowed).then(|| format!("{}: {from} may not import {}", module.file.display(), import.join("::")))
    }));
}

#[test]
fn every_top_level_module_has_its_rule() {
    let sources = sources();
    let found: BTreeSet<&str> = sources.modules.keys().filter_map(|at| Some(at.first()?.as_str())).collect();
    assert_eq!(found, MODULES.iter().map(|(name, _)| *name).collect());
    none(MODULES.iter().enumerate().flat_map(|(rank, (name, allowed))| {
        let allowed = if let Only(allowed) = allowed { allowed } else { &[][..] };
        let below: BTreeSet<&str> = MODULES[..rank].iter().map(|(name, _)| *name).collect();
        let above = allowed.iter().filter(move |allowed| !below.contains(*allowed));
        above.map(move |above| format!("{name} is listed below {above}, which it may import"))
    }));
}

#[test]
fn no_cycle_between_top_level_modules() {
    let sources = sources();
    none(Graph::below(&sources, &[]).cycles());
}

#[test]
fn no_cycle_between_the_submodules_of_the_server() {
    let sources = sources();
    none(Graph::below(&sources, &["server"]).cycles());
}

#[test]
fn only_the_link_names_the_multiplexer() {
    let sources = sources();
    let names_it = |module: &Module| module.others.iter().any(|path| path[0] == "yamux");
    let (inside, outside): (Vec<_>, Vec<_>) =
        sources.modules.values().filter(|module| names_it(module)).partition(|module| module.file.starts_with("link"));
    none(outside.iter().map(|module| module.file.display().to_string()));
    assert!(!inside.is_empty(), "yamux has another name now");
}

#[test]
fn no_function_takes_a_tuple() {
    let sources = sources();
    none(sources.modules.values().flat_map(|module| {
        module.functions.iter().flat_map(|function| {
            function.tuples.iter().map(|tuple| format!("{}: {} takes {tuple}", module.file.display(), function.name))
        })
    }));
}

#[test]
fn no_function_is_too_long() {
    let sources = sources();
    none(sources.modules.values().flat_map(|module| {
        let long = module.functions.iter().filter(|function| function.lines > MAX_FUNCTION);
        long.map(|function| format!("{}: {} has {} lines", module.file.display(), function.name, function.lines))
    }));
}

#[test]
fn no_struct_but_a_record_of_options_has_too_many_fields() {
    let sources = sources();
    let is_record = |module: &Module| {
        module.file.components().any(|part| part.as_os_str().to_str().unwrap().starts_with("options"))
    };
    none(sources.modules.values().filter(|module| !is_record(module)).flat_map(|module| {
        let large = module.structs.iter().filter(|large| large.fields > MAX_FIELDS);
        large.map(|large| format!("{}: {} has {} fields", module.file.display(), large.name, large.fields))
    }));
}

#[test]
fn no_file_is_too_long() {
    let sources = sources();
    let long = sources.lines.iter().filter(|(_, lines)| **lines > MAX_FILE);
    none(long.map(|(file, lines)| format!("{} has {lines} lines", file.display())));
}

#[test]
fn the_reader_sees_every_kind_of_import() {
    let text = "
        use crate::a::B;
        use crate::{b::{x, y as z}, c};
        use super::d;
        use super::super::e::*;
        pub(in crate::unseen) use self::f::g;
        // use crate::not::this;
        fn one(two: super::h::Two) -> crate::i::Three { format!(\"{}\", super::j::text()); other::k() }
        #[cfg(test)]
        mod tests { use crate::l::M; }
        mod inner { use super::n; use super::super::o; }
    ";
    let sources = Sources::of_text(text, &["p", "q"]);
    let found: BTreeSet<String> = imports(&sources).map(|(_, _, import)| import.join("::")).collect();
    let expected = [
        "a::B",
        "b::x",
        "b::y",
        "c",
        "p::d",
        "e",
        "p::q::f::g",
        "p::h::Two",
        "i::Three",
        "p::j::text",
        "p::q::n",
        "p::o",
    ];
    assert_eq!(found, expected.map(String::from).into());
}

#[test]
fn the_reader_measures_functions_structs_and_files() {
    let text = "fn one(\n    pair: (u8, &str),\n    &(a, b): &(u8, u8),\n    c: u8,\n) {\n}\nstruct Two {\n    a: u8,\n    b: u8,\n}\n#[cfg(test)]\nmod tests {\n}\n";
    let sources = Sources::of_text(text, &[]);
    let module = &sources.modules[&Vec::new()];
    let function = &module.functions[0];
    assert_eq!((function.lines, function.tuples.len()), (6, 2));
    assert_eq!((module.structs[0].name.as_str(), module.structs[0].fields), ("Two", 2));
    assert_eq!(sources.lines[Path::new("text.rs")], 10);
}
