use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use super::*;

/// 2026-10-24T00:00:00Z.
const START: u64 = 1_792_800_000;

/// A folder with a log in it, and a clock that is turned by hand.
struct Scene {
    dir: TempDir,
    file: LogFile,
    now: Arc<AtomicU64>,
    state: LogState,
}

impl Scene {
    fn new(size: u64, keep: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = LogFile { path: dir.path().join("adit.log"), size, keep };
        Self { dir, file, now: Arc::new(AtomicU64::new(START)), state: LogState::default() }
    }

    fn open(&self) -> Rolling {
        let now = Arc::clone(&self.now);
        Rolling::with_clock(&self.file, self.state.clone(), Box::new(move || now.load(Ordering::Relaxed))).unwrap()
    }

    fn at(&self, seconds: u64) {
        self.now.store(START + seconds, Ordering::Relaxed);
    }

    /// A run of the program: it writes these lines and ends.
    fn run(&self, lines: &[&str]) {
        let mut log = self.open();
        write(&mut log, lines);
        drop(log);
        self.written_now();
    }

    /// The file was written to at this moment.
    fn written_now(&self) {
        let at = UNIX_EPOCH + Duration::from_secs(self.now.load(Ordering::Relaxed));
        File::options().append(true).open(&self.file.path).unwrap().set_modified(at).unwrap();
    }

    /// What is in the file, and in the earlier ones.
    fn files(&self) -> Vec<String> {
        let texts = (0..).map(|n| fs::read_to_string(earlier(&self.file.path, n)));
        texts.map_while(Result::ok).collect()
    }
}

fn write(log: &mut Rolling, lines: &[&str]) {
    for line in lines {
        // A line is written in one piece, as the log does.
        log.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
    log.flush().unwrap();
}

#[test]
fn a_file_makes_room_when_it_is_large_and_old_ones_go() {
    let scene = Scene::new(100, 2);
    let mut log = scene.open();
    for line in 0..10 {
        write(&mut log, &[&format!("{line} {}", "x".repeat(70))]);
    }
    let mut names: Vec<_> = fs::read_dir(scene.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["adit.log", "adit.log.1", "adit.log.2"]);
    assert!(scene.files()[0].contains("9 x"), "the newest lines are in the file itself");
}

#[test]
fn a_file_is_as_large_as_it_may_be_also_when_many_lines_come_at_once() {
    let scene = Scene::new(100, 10);
    let mut log = scene.open();
    write(&mut log, &["x".repeat(49).as_str(); 7]);
    let sizes: Vec<usize> = scene.files().iter().map(String::len).collect();
    assert_eq!(sizes, [50, 100, 100, 100]);
}

#[test]
fn every_day_has_its_file_also_those_whose_local_midnight_comes_twice() {
    // In Cairo on the 30th of October 2026, on the Azores on the 25th, in Havana on the 1st of November.
    let scene = Scene::new(1_000_000, 20);
    let mut log = scene.open();
    for half_hour in 0..10 * 48 {
        scene.at(half_hour * 30 * 60);
        write(&mut log, &[&format!("day {}", half_hour / 48)]);
    }
    let files = scene.files();
    assert_eq!(files.len(), 10);
    for (day, text) in files.iter().rev().enumerate() {
        assert_eq!(*text, format!("day {day}\n").repeat(48));
    }
    assert_eq!(scene.state.lost_lines(), 0);
}

#[test]
fn a_restart_does_not_forget_of_which_day_a_file_is() {
    let scene = Scene::new(1_000_000, 20);
    for (day, line) in ["one", "two", "three"].into_iter().enumerate() {
        scene.at(day as u64 * DAY + 1000);
        scene.run(&[line]);
        scene.at(day as u64 * DAY + 2000);
        scene.run(&["later"]);
    }
    assert_eq!(scene.files(), ["three\nlater\n", "two\nlater\n", "one\nlater\n"]);
}

#[test]
fn an_empty_file_of_yesterday_is_not_kept() {
    let scene = Scene::new(1_000_000, 20);
    scene.run(&[]);
    scene.at(DAY + 1);
    let mut log = scene.open();
    scene.at(3 * DAY);
    write(&mut log, &["one"]);
    assert_eq!(scene.files(), ["one\n"]);
}

#[test]
fn a_clock_that_is_put_right_begins_no_further_files() {
    let scene = Scene::new(1_000_000, 20);
    let mut log = scene.open();
    write(&mut log, &["before"]);
    for seconds in [DAY, DAY - 2, DAY + 1] {
        scene.at(seconds);
        write(&mut log, &["midnight"]);
    }
    assert_eq!(scene.files(), ["midnight\nmidnight\nmidnight\n", "before\n"]);
}

#[test]
fn a_file_that_cannot_make_room_is_tried_again_once_a_minute() {
    let scene = Scene::new(100, 1);
    let in_the_way = scene.dir.path().join("adit.log.1");
    fs::create_dir_all(in_the_way.join("not empty")).unwrap();
    let mut log = scene.open();
    let long = "x".repeat(120);
    write(&mut log, &[&long]);
    assert_eq!((log.stuck, scene.state.problems()), (None, Vec::new()));
    for seconds in [1, 2, 60] {
        scene.at(seconds);
        write(&mut log, &["on and on"]);
        assert_eq!(log.stuck, Some(START + 1), "it was tried again");
    }
    assert!(scene.state.problems()[0].contains("no other can be begun"), "{:?}", scene.state.problems());
    scene.at(61);
    write(&mut log, &["on and on"]);
    assert_eq!(log.stuck, Some(START + 61));
    // What was in the way is gone.
    fs::remove_dir_all(&in_the_way).unwrap();
    scene.at(121);
    write(&mut log, &["another"]);
    assert_eq!(scene.files(), ["another\n".to_owned(), format!("{long}\n{}", "on and on\n".repeat(4))]);
    assert_eq!((log.stuck, scene.state.problems(), scene.state.lost_lines()), (None, Vec::new(), 0));
}

#[test]
fn what_is_tried_again_loses_no_earlier_file() {
    let scene = Scene::new(100, 4);
    for (n, text) in [(2, "second"), (3, "third"), (4, "fourth")] {
        fs::write(earlier(&scene.file.path, n), text).unwrap();
    }
    let mut log = scene.open();
    write(&mut log, &["first"]);
    scene.at(DAY);
    write(&mut log, &["now"]);
    assert_eq!(scene.files(), ["now\n", "first\n", "second", "third", "fourth"]);
    // Somebody has taken the file away: there is nothing to push back.
    fs::remove_file(&scene.file.path).unwrap();
    scene.at(2 * DAY);
    write(&mut log, &["later"]);
    assert_eq!(scene.files(), ["later\n", "first\n", "second", "third", "fourth"]);
}

#[test]
fn a_line_that_was_torn_before_a_restart_does_not_garble_the_next() {
    let scene = Scene::new(1_000_000, 2);
    fs::write(&scene.file.path, "whole\nha").unwrap();
    scene.written_now();
    scene.run(&["next", "last"]);
    scene.run(&["again"]);
    assert_eq!(scene.files(), ["whole\nha\nnext\nlast\nagain\n"]);
}

#[cfg(target_os = "linux")]
#[test]
fn lines_that_a_full_disk_does_not_take_are_counted_and_a_device_is_not_renamed() {
    let scene = Scene::new(1, 1);
    // By a link of the test's own: should it be renamed after all, the machine keeps its device.
    std::os::unix::fs::symlink("/dev/full", &scene.file.path).unwrap();
    let mut log = scene.open();
    write(&mut log, &["one", "two"]);
    write(&mut log, &["three"]);
    assert_eq!(scene.state.lost_lines(), 3);
    let problems = scene.state.problems();
    assert!(problems.len() == 1 && problems[0].contains("adit.log cannot be written: No space left"), "{problems:?}");
    log.lines.add(b"four\n");
    assert!(!log.is_due(START + 9 * DAY));
}

#[cfg(unix)]
#[test]
fn a_file_that_another_program_moves_or_deletes_begins_anew() {
    let scene = Scene::new(10_000, 2);
    let mut log = scene.open();
    write(&mut log, &["one"]);
    let moved = scene.dir.path().join("moved");
    fs::rename(&scene.file.path, &moved).unwrap();
    write(&mut log, &["two"]);
    assert_eq!((fs::read_to_string(&moved).unwrap(), scene.files()), ("one\n".to_owned(), vec!["two\n".to_owned()]));
    fs::remove_file(&scene.file.path).unwrap();
    write(&mut log, &["three"]);
    assert_eq!(scene.files(), ["three\n"]);
    // logrotate's `create`: another file is there already.
    fs::rename(&scene.file.path, &moved).unwrap();
    fs::write(&scene.file.path, "").unwrap();
    write(&mut log, &["four", "five"]);
    assert_eq!(scene.files(), ["four\nfive\n"]);
    // Its `copytruncate`: the same file, shorter.
    File::options().write(true).open(&scene.file.path).unwrap().set_len(0).unwrap();
    write(&mut log, &["six"]);
    assert_eq!(scene.files(), ["six\n"]);
    // Nowhere to begin another: the lines stay where they can be written.
    fs::remove_dir_all(scene.dir.path()).unwrap();
    write(&mut log, &["seven"]);
    assert_eq!(scene.state.problems(), [""; 0]);
}
