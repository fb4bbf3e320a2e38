//! Reads resolv.conf(5), which names the servers that a host asks for names.

use std::net::IpAddr;

/// Returns the addresses of the lines `nameserver ADDRESS` (resolv.conf(5)).
pub(crate) fn name_servers(text: &str) -> Vec<IpAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let address = words
            .next()
            .filter(|word| *word == "nameserver")
            .and(words.next())?;
        // The interface of a link-local address is no part of what a filter sees.
        address.split('%').next()?.parse().ok()
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_as_the_c_library_does() {
        let text = "# nameserver 192.0.2.9\nsearch example.org\nnameserver 192.0.2.1\n nameserver\tfe80::1%eth0\n\
                    nameserver\nnameserver no\n";
        let expected: [IpAddr; 2] = [
            "192.0.2.1".parse().expect("v4"),
            "fe80::1".parse().expect("v6"),
        ];
        assert_eq!(name_servers(text), expected);
    }
}
