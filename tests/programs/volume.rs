//! Large bodies both ways: they arrive whole, and neither side keeps them in memory.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::process::Stdio;

use sha2::{Digest, Sha256};

use crate::setup::{Folder, Scene, nginx};
use crate::visitor::curl;

const MIB: u64 = 1 << 20;

/// The most memory a server or an agent may take, whatever goes through it: an eighth of what does. A busy machine lets
/// windows fill and the allocator fall behind.
const MEMORY: u64 = 128 * MIB;

#[test]
fn a_gibibyte_each_way_arrives_whole_in_constant_memory() {
    let size = 1024 * MIB;
    let folder = Folder::new();
    let site = nginx(&folder);
    let file = folder.path("site/large.bin");
    let sum = write_noise(&file, size);
    let scene = Scene::of(folder, site, "");

    // A transfer that stalls is given up, however large it is.
    let patience = ["--speed-time", "20", "--speed-limit", "1024"];
    let mut download = curl(&scene.server.url("alice", "/large.bin"));
    let mut download = download.args(patience).stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(hash(download.stdout.take().unwrap()), (size, sum), "the download differs");
    assert!(download.wait().unwrap().success());

    let mut upload = curl(&scene.server.url("alice", "/uploads/copy.bin"));
    upload.args(patience).arg("--upload-file").arg(&file).args(["--write-out", "%{http_code}"]);
    let upload = upload.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&upload.stdout), "201", "{upload:?}");
    let copy = File::open(scene.folder.path("site/uploads/copy.bin")).unwrap();
    assert_eq!(hash(copy), (size, sum), "the upload differs");

    for (side, program) in [("server", &scene.server.program), ("agent", &scene.agent)] {
        let peak = program.peak_memory();
        println!("{side}: {} MiB at most", peak / MIB);
        assert!(peak < MEMORY, "the {side} took {} MiB", peak / MIB);
    }
}

/// Writes bytes in which no two blocks are alike; gives their SHA-256.
fn write_noise(file: &Path, size: u64) -> [u8; 32] {
    // A xorshift generator (Marsaglia, 2003), for a block that does not compress; its number makes it differ.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block: Vec<u8> = (0..MIB / 8)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect();
    let (mut file, mut hasher) = (File::create(file).unwrap(), Sha256::new());
    for number in 0..size / MIB {
        block[..8].copy_from_slice(&number.to_le_bytes());
        hasher.update(&block);
        file.write_all(&block).unwrap();
    }
    hasher.finalize().into()
}

/// How long it is, and its SHA-256.
fn hash(data: impl Read) -> (u64, [u8; 32]) {
    let (mut data, mut hasher) = (BufReader::with_capacity(MIB as usize, data), Hasher(Sha256::new()));
    let length = io::copy(&mut data, &mut hasher).unwrap();
    (length, hasher.0.finalize().into())
}

struct Hasher(Sha256);

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
