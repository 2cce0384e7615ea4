//! `bench-link --left NETNS ADDRESS --right NETNS ADDRESS`: joins two network namespaces by a link of a given rate, delay
//! and queue. Each of them gets a TUN device with its address (a /24); what is sent into one comes out of the other.
//!
//! It prints `ready`, then takes one command a line on its standard input, answers each with `ok` or `error: …`, and ends
//! when the input does. Needs root and /dev/net/tun.
//!
//! | command | means | at first |
//! | --- | --- | --- |
//! | `rate MBIT` | megabits a second; 0 is as fast as it goes | 0 |
//! | `delay MS` | on the way, one direction | 0 |
//! | `queue KB` | kilobytes that wait for the rate; what comes on top is dropped | 256 |
//! | `fair on`, `fair off` | each flow waits in a queue of its own, and they take turns | off |
//! | `loss PERCENT` | dropped at random | 0 |
//! | `reorder PERCENT` | overtakes: is not delayed | 0 |
//! | `cut on`, `cut off` | nothing comes through, and nobody is told | off |
//! | `reset` | all of it as at first | |
//!
//! `left` or `right` before a command means the direction towards that end; without it, both.

mod command;
mod flow;
mod namespace;
mod queue;
mod shaper;

use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use tun_rs::SyncDevice;

use command::Directions;
use shaper::{Shape, Shaper};

/// Packets larger than this do not come: it is the devices' MTU.
const MTU: u16 = 1500;

/// Packets read at once before those that are due are sent.
const BATCH: usize = 64;

/// How long a direction where nothing happens takes to hear of a change.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

const USAGE: &str = "usage: bench-link --left NETNS ADDRESS --right NETNS ADDRESS";

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [left, left_name, left_address, right, right_name, right_address] = words.as_slice() else {
        return Err(USAGE.into());
    };
    if (left.as_str(), right.as_str()) != ("--left", "--right") {
        return Err(USAGE.into());
    }
    let addresses: (Ipv4Addr, Ipv4Addr) = (left_address.parse()?, right_address.parse()?);
    let left = namespace::device(left_name, addresses.0, MTU)?;
    let right = namespace::device(right_name, addresses.1, MTU)?;
    let wanted = Mutex::new(Directions::default());
    println!("ready");
    thread::scope(|scope| {
        scope.spawn(|| or_end(carry(&left, &right, || now_wanted(&wanted).to_right)));
        scope.spawn(|| or_end(carry(&right, &left, || now_wanted(&wanted).to_left)));
        or_end(obey(&wanted));
        std::process::exit(0)
    })
}

/// Half a link is none: if one part of it fails, all of it ends.
fn or_end(result: io::Result<()>) {
    if let Err(error) = result {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn now_wanted(wanted: &Mutex<Directions>) -> Directions {
    *wanted.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes commands until there are no more.
fn obey(wanted: &Mutex<Directions>) -> io::Result<()> {
    for line in io::stdin().lines() {
        match command::obey(&line?, &mut wanted.lock().unwrap_or_else(PoisonError::into_inner)) {
            Ok(()) => println!("ok"),
            Err(why) => println!("error: {why}"),
        }
    }
    Ok(())
}

/// One direction, on a thread of its own: everything that comes out of `from` goes through a shaper into `to`.
fn carry(from: &SyncDevice, to: &SyncDevice, wanted: impl Fn() -> Shape) -> io::Result<()> {
    let mut shaper = Shaper::new(wanted());
    let mut room = vec![0; usize::from(MTU)];
    loop {
        wait_for(from, shaper.next_due())?;
        shaper.set(wanted());
        for _ in 0..BATCH {
            match from.recv(&mut room) {
                Ok(count) => shaper.push(Instant::now(), room[..count].to_vec()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => break,
                Err(error) => return Err(error),
            }
        }
        while let Some(packet) = shaper.pop(Instant::now()) {
            // What a device does not take is lost, as on any link.
            let _ = to.send(&packet);
        }
    }
}

/// Waits until something comes, or is due: to the microsecond, because at 100 Mbit/s a millisecond is eight packets.
fn wait_for(device: &SyncDevice, due: Option<Instant>) -> io::Result<()> {
    let left = due.map_or(LOOK_AGAIN, |due| due.saturating_duration_since(Instant::now()).min(LOOK_AGAIN));
    let mut devices = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
    match ppoll(&mut devices, Some(TimeSpec::from_duration(left)), None) {
        Ok(_) | Err(nix::Error::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
