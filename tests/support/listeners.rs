//! What processes listen on, as the kernel says.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The kernel's tables of sockets, each with the state of one that takes what anybody sends.
const TABLES: [(&str, &str); 4] = [("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")];

/// Addresses where a process takes TCP connections or UDP datagrams from anybody.
pub fn listeners(pid: u32) -> Vec<SocketAddr> {
    let sockets = sockets(pid);
    let mut found = Vec::new();
    for (table, listening) in TABLES {
        // A machine without IPv6 has no table of it.
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        assert!(!text.is_empty() || table.ends_with('6'), "/proc/{pid}/net/{table} cannot be read");
        for line in text.lines().skip(1) {
            // sl, local, remote, state, queues, timer, retransmits, uid, timeout, inode
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields[3] == listening && sockets.contains(fields[9]) {
                found.push(address(fields[1]));
            }
        }
    }
    found
}

/// A process's children and theirs.
pub fn descendants(pid: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let all: Vec<(u32, u32)> = processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|child| {
            // The name in brackets may hold anything; state and parent come after it.
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((child, parent))
        })
        .collect();
    let (mut found, mut next) = (Vec::new(), vec![pid]);
    while let Some(parent) = next.pop() {
        let children = all.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child);
        next.extend(children.clone());
        found.extend(children);
    }
    found
}

/// The inodes of a process's open sockets.
fn sockets(pid: u32) -> BTreeSet<String> {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    open.filter_map(|entry| {
        let target = std::fs::read_link(entry.path()).ok()?;
        Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
    })
    .collect()
}

/// An address as the tables write it: words in the machine's byte order as hex digits, then the port.
fn address(text: &str) -> SocketAddr {
    let (words, port) = text.split_once(':').unwrap();
    let bytes: Vec<u8> = (0..words.len() / 8)
        .flat_map(|i| u32::from_str_radix(&words[8 * i..8 * i + 8], 16).unwrap().to_ne_bytes())
        .collect();
    let ip = match <[u8; 4]>::try_from(&bytes[..]) {
        Ok(v4) => IpAddr::V4(Ipv4Addr::from(v4)),
        Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[..]).unwrap()).to_canonical(),
    };
    SocketAddr::new(ip, u16::from_str_radix(port, 16).unwrap())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn every_kind_of_listener_is_found() {
        let inner = TcpListener::bind("127.0.0.1:0").unwrap();
        let outer = TcpListener::bind("0.0.0.0:0").unwrap();
        let datagrams = UdpSocket::bind("0.0.0.0:0").unwrap();
        let found = listeners(std::process::id());
        let bound = [inner.local_addr(), outer.local_addr(), datagrams.local_addr()];
        for address in bound.map(Result::unwrap) {
            assert!(found.contains(&address), "{address} is not among {found:?}");
        }
        if let Ok(six) = TcpListener::bind("[::]:0") {
            assert!(found_six(&six), "{six:?}");
        }
    }

    fn found_six(listener: &TcpListener) -> bool {
        listeners(std::process::id()).contains(&listener.local_addr().unwrap())
    }
}
