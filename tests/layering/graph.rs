//! Which modules import which, and the cycles among them.

use std::collections::{BTreeMap, BTreeSet};

use crate::sources::Sources;

/// The modules directly below one, with what each imports of the others. What is in the module itself, and not below, is a
/// node of its own.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    edges: BTreeMap<String, BTreeMap<String, String>>,
}

impl Graph {
    /// The graph of the modules directly below `parent`.
    pub(crate) fn below(sources: &Sources, parent: &[&str]) -> Self {
        let is_below = |path: &[String]| path.len() >= parent.len() && path.iter().zip(parent).all(|(a, b)| a == b);
        let node = |path: &[String]| path.get(parent.len()).cloned().unwrap_or_else(|| "(itself)".to_owned());
        let mut graph = Self::default();
        for (at, module) in sources.modules.iter().filter(|(at, _)| is_below(at)) {
            for import in module.imports.iter().filter(|import| is_below(import)) {
                let (from, to) = (node(at), node(sources.module_of(import)));
                if from != to {
                    let example = format!("{} imports {}", module.file.display(), import.join("::"));
                    graph.edges.entry(from).or_default().entry(to).or_insert(example);
                }
            }
        }
        graph
    }

    /// One line for each import that is part of a cycle.
    pub(crate) fn cycles(&self) -> Vec<String> {
        let reached: BTreeMap<&str, BTreeSet<&str>> =
            self.edges.keys().map(|node| (node.as_str(), self.reached_from(node))).collect();
        let mut found = Vec::new();
        for (from, targets) in &self.edges {
            for (to, example) in targets {
                if reached.get(to.as_str()).is_some_and(|nodes| nodes.contains(from.as_str())) {
                    found.push(format!("{from} -> {to}: {example}"));
                }
            }
        }
        found
    }

    fn reached_from(&self, start: &str) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        let mut next = vec![start];
        while let Some(node) = next.pop() {
            for target in self.edges.get(node).into_iter().flat_map(BTreeMap::keys) {
                if found.insert(target.as_str()) {
                    next.push(target);
                }
            }
        }
        found
    }
}
