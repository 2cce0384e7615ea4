//! TUN devices in other network namespaces than this one.

use std::error::Error;
use std::fs::File;
use std::net::Ipv4Addr;
use std::thread;

use nix::sched::{CloneFlags, setns};
use tun_rs::{DeviceBuilder, SyncDevice};

/// Makes a device with this address in a namespace that `ip netns add` made.
///
/// # Errors
/// Whatever is missing, by its name: the namespace, the right to enter it, `/dev/net/tun`.
pub(crate) fn device(namespace: &str, address: Ipv4Addr, mtu: u16) -> Result<SyncDevice, Box<dyn Error>> {
    let path = format!("/var/run/netns/{namespace}");
    let file = File::open(&path).map_err(|error| format!("the network namespace {path}: {error}"))?;
    // Namespaces are a thread's own: one that ends right after leaves nothing changed.
    let made = thread::spawn(move || -> Result<SyncDevice, String> {
        setns(file, CloneFlags::CLONE_NEWNET).map_err(|error| format!("entering {path} (needs root): {error}"))?;
        DeviceBuilder::new()
            .name("link0")
            .ipv4(address, 24, None)
            .mtu(mtu)
            .build_sync()
            .map_err(|error| format!("a TUN device in {path} (needs root and /dev/net/tun): {error}"))
    });
    let device = made.join().map_err(|_| "the thread that makes a device has ended early")??;
    device.set_nonblocking(true)?;
    Ok(device)
}
