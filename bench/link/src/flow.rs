//! Which packets belong together.

use std::hash::{DefaultHasher, Hasher};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A number for the flow of an IP packet: its addresses, protocol and ports.
pub(crate) fn flow_of(packet: &[u8]) -> u64 {
    let (protocol, addresses, rest) = match packet.first().map(|byte| byte >> 4) {
        Some(4) if packet.len() >= 20 => (packet[9], &packet[12..20], usize::from(packet[0] & 15) * 4),
        Some(6) if packet.len() >= 40 => (packet[6], &packet[8..40], 40),
        _ => return 0,
    };
    let mut hasher = DefaultHasher::new();
    hasher.write(addresses);
    hasher.write_u8(protocol);
    if matches!(protocol, TCP | UDP)
        && let Some(ports) = packet.get(rest..rest + 4)
    {
        hasher.write(ports);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(source: u16) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x45;
        packet[9] = TCP;
        packet[20..22].copy_from_slice(&source.to_be_bytes());
        packet
    }

    #[test]
    fn ports_make_a_flow_and_the_payload_does_not() {
        let mut longer = tcp(1);
        longer.extend([7; 100]);
        assert_eq!(flow_of(&tcp(1)), flow_of(&longer));
        assert_ne!(flow_of(&tcp(1)), flow_of(&tcp(2)));
    }

    #[test]
    fn anything_is_of_some_flow() {
        for first in 0..=255 {
            for length in 0..64 {
                let mut packet = vec![first; length];
                packet.truncate(length);
                flow_of(&packet);
            }
        }
    }
}
