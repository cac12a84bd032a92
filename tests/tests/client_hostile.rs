//! Our client and servers that mean it no good: a clear error, code 1, soon, little memory, no secret.

use std::io::Read;
use std::net::{IpAddr, TcpListener};
use std::thread;
use std::time::Duration;

use mstunnel_tests::{Certificate, Client, Ended, Network, Scripted, Visit};

/// What a client may need for a server that floods it, debug build: bodies have a megabyte, heads less.
const MAX_MEMORY_KIB: u64 = 100 * 1024;

/// How long a refusal may take that needs no waiting; the tests share two cores.
const SOON: Duration = Duration::from_secs(25);

const PORT: u16 = 443;

struct Site {
    network: Network,
    certificate: Certificate,
}

fn site() -> Option<Site> {
    let network = Network::new()?;
    let certificate = Certificate::for_addresses(&network.server_addresses());
    Some(Site { network, certificate })
}

impl Site {
    fn serve(&self, port: u16, script: impl Fn(&mut Visit) + Send + Sync + 'static) -> Scripted {
        Scripted::start(&self.network, port, &self.certificate, script)
    }

    fn client(&self, command: &str, port: u16) -> Option<Client<'_>> {
        let url = format!("https://{}:{port}", self.network.ports(0).server_v4);
        let client = Client::at(self.network.client(0), command, &url)?;
        Some(client.authority(&self.certificate).as_alice().secret("TOKEN@1@2"))
    }

    /// Runs `show` against `script`.
    fn show(&self, script: impl Fn(&mut Visit) + Send + Sync + 'static) -> Option<Ended> {
        let server = self.serve(PORT, script);
        let ended = self.client("show", PORT)?.run();
        drop(server);
        Some(ended)
    }

    /// The same for a script that must make it fail.
    fn refuse(&self, words: &str, script: impl Fn(&mut Visit) + Send + Sync + 'static) -> Option<String> {
        let ended = self.show(script)?;
        assert!(ended.took < SOON, "{words}: after {:?}", ended.took);
        assert!(ended.peak_kib < MAX_MEMORY_KIB, "{words}: {} KiB", ended.peak_kib);
        Some(ended.expect_failure(words))
    }
}

fn response(fields: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\n{fields}").into_bytes()
}

/// Covers: R61, P-089
#[test]
fn a_certificate_that_is_not_the_servers_own_is_refused() {
    let Some(network) = Network::new() else { return };
    let here = network.server_addresses();
    let elsewhere: IpAddr = "192.0.2.200".parse().expect("an address");
    let address = network.ports(0).server_v4.to_string();
    for (certificate, words) in [
        (Certificate::for_addresses(&[elsewhere]), "for another name"),
        (Certificate::for_names(&["vpn.example"]), "for another name"),
        (Certificate::without_names(&address), "for another name"),
        (Certificate::expired(&here), "has expired"),
    ] {
        let server = Scripted::start(&network, PORT, &certificate, |visit| {
            assert!(visit.request().is_none(), "the client spoke to a stranger");
        });
        let url = format!("https://{address}");
        let Some(client) = Client::at(network.client(0), "show", &url) else { return };
        client.as_alice().authority(&certificate).run().expect_failure(words);
        // A pin speaks of the key, whatever the certificate says; it adds to an authority and replaces nothing.
        let Some(client) = Client::at(network.client(0), "show", &url) else { return };
        let pinned = client.as_alice().authority(&certificate).arguments(&["--pin", certificate.pin()]);
        pinned.run().expect_failure(words);
        assert!(server.visits() >= 2);
    }
}

/// Covers: R61, P-090
#[test]
fn a_server_without_tls_is_refused() {
    let Some(site) = site() else { return };
    for answer in ["HTTP/1.1 400 Bad Request\r\n\r\n", "SSH-2.0-OpenSSH_9.2\r\n", ""] {
        let any = ("0.0.0.0", PORT);
        let listener = site.network.server().with(|| TcpListener::bind(any)).expect("the port is free");
        let server = thread::spawn(move || {
            use std::io::Write;
            let (mut stream, _) = listener.accept().expect("the client comes");
            let mut hello = [0; 3];
            stream.read_exact(&mut hello).expect("a client hello");
            assert_eq!(hello[0], 22, "the client begins with TLS and nothing else");
            stream.write_all(answer.as_bytes()).ok();
        });
        let Some(client) = site.client("show", PORT) else { return };
        let message = client.run().expect_failure("192.0.2.1");
        assert!(message.contains("cannot"), "{message}");
        server.join().expect("the server saw TLS");
    }
}

/// Covers: statement 22, R61, P-090
#[test]
fn no_redirect_leads_to_plain_http_or_to_another_server() {
    let Some(site) = site() else { return };
    let other = site.serve(4443, |visit| {
        assert!(visit.request().is_none(), "the client asks a server that it was not told");
    });
    for location in [
        "http://192.0.2.1/",
        "HTTP://192.0.2.1/",
        "https://192.0.2.1:4443/",
        "https://evil.example/",
        "//192.0.2.1:4443/",
        "https://192.0.2.1@192.0.2.1:4443/",
        "ftp://192.0.2.1/",
    ] {
        let refused = site.refuse("redirects to", move |visit| {
            while visit.request().is_some() {
                visit.send(
                    format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
                        .as_bytes(),
                );
            }
        });
        if refused.is_none() {
            return;
        }
    }
    assert_eq!(other.visits(), 0, "the client followed");
    site.refuse("without end", |visit| {
        while visit.request().is_some() {
            visit.send(b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n");
        }
    });
}

/// Covers: R63, P-090
#[test]
fn floods_and_lengths_that_lie_end_at_a_bound() {
    let Some(site) = site() else { return };
    type Script = fn(&mut Visit);
    let scripts: [(&str, &str, Script); 9] = [
        ("endless fields", "HTTP", |visit| {
            visit.send(&response(""));
            visit.flood(&b"X-More: and more\r\n".repeat(500));
        }),
        ("an endless field", "HTTP", |visit| {
            visit.send(&response("X-More: "));
            visit.flood(&[b'a'; 8192]);
        }),
        ("an endless status line", "HTTP", |visit| visit.flood(&[b'H'; 8192])),
        ("an endless body", "HTTP", |visit| {
            visit.send(&response("\r\n"));
            visit.flood(&[b' '; 8192]);
        }),
        ("a gigabyte is announced", "HTTP", |visit| {
            visit.send(&response("Content-Length: 1073741824\r\n\r\n"));
            visit.flood(&[b' '; 8192]);
        }),
        ("a chunk length that overflows", "HTTP", |visit| {
            visit.send(&response("Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\nx\r\n"));
            visit.stall();
        }),
        ("endless chunks", "HTTP", |visit| {
            visit.send(&response("Transfer-Encoding: chunked\r\n\r\n"));
            visit.flood(&b"1\r\nx\r\n".repeat(1000));
        }),
        ("two lengths", "HTTP", |visit| {
            visit.send(&response("Content-Length: 5\r\nContent-Length: 6\r\n\r\n<a/>  "));
            visit.stall();
        }),
        ("a hundred thousand cookies", "HTTP", |visit| {
            visit.send(&response(""));
            visit.send(&b"Set-Cookie: webvpn=AAAA\r\n".repeat(100_000));
            visit.send(b"Content-Length: 0\r\n\r\n");
            visit.stall();
        }),
    ];
    for (what, words, script) in scripts {
        let message = site.refuse(words, move |visit| {
            if visit.request().is_some() {
                script(visit);
            }
        });
        let Some(message) = message else { return };
        assert!(message.len() < 300, "{what}: {message}");
    }
}

/// Covers: R62, R63, P-090, P-091
#[test]
fn documents_that_are_bombs_or_nonsense_are_refused() {
    let Some(site) = site() else { return };
    let mut bomb = String::from("<?xml version=\"1.0\"?><!DOCTYPE l [<!ENTITY a0 \"haha\">");
    for n in 1..30 {
        bomb += &format!("<!ENTITY a{n} \"&a{0};&a{0};\">", n - 1);
    }
    bomb += "]><config-auth><auth id=\"main\"><message>&a29;</message></auth></config-auth>";
    let deep = "<config-auth>".repeat(40_000);
    let form = |inner: &str| format!("<config-auth><auth id=\"main\">{inner}</auth></config-auth>");
    let many = form(&format!("<form>{}</form>", "<input type=\"text\" name=\"a\"/>".repeat(100)));
    let elsewhere =
        form("<form action=\"http://192.0.2.1:81/\"><input type=\"password\" name=\"p\"/></form>");
    let asks_more =
        form("<form action=\"/\"><input type=\"text\" name=\"x\" label=\"\u{9b}2J\u{202e}PIN\"/></form>");
    for (body, words) in [
        (bomb, "sign-in document"),
        (deep, "sign-in document"),
        (many, "inputs"),
        (elsewhere, "POST to a path"),
        (asks_more, "no terminal to ask"),
        ("<html>It works!</html>".to_owned(), "sign-in document"),
        (String::new(), "sign-in document"),
        (form(""), "refused the credentials"),
        (form("<message>\u{9b}31mred \u{202e}txet</message>"), "refused the credentials"),
        ("<config-auth><auth id=\"success\"/></config-auth>".to_owned(), "no usable session cookie"),
    ] {
        let refused = site.refuse(words, move |visit| {
            while visit.request().is_some() {
                visit.document(&body);
            }
        });
        if refused.is_none() {
            return;
        }
    }
    // A server that never has enough.
    let asked = form("<form action=\"/\"><input type=\"text\" name=\"username\"/></form>");
    site.refuse("without end", move |visit| {
        while visit.request().is_some() {
            visit.document(&asked);
        }
    });
}

/// Covers: statement 21, R62, R63, P-091
#[test]
fn what_is_pushed_is_typed_and_bounded_or_refused() {
    let Some(site) = site() else { return };
    for (fields, words) in [
        ("X-CSTP-Banner: \u{1b}]0;owned\u{7}\r\n".to_owned(), "X-CSTP-Banner"),
        ("X-CSTP-Default-Domain: corp.example;reboot\r\n".to_owned(), "X-CSTP-Default-Domain"),
        ("X-CSTP-Default-Domain: $(id)\r\n".to_owned(), "X-CSTP-Default-Domain"),
        ("X-CSTP-DNS: 10.0.0.1'\r\n".to_owned(), "X-CSTP-DNS"),
        ("X-CSTP-Split-DNS: a\u{1b}b\r\n".to_owned(), "X-CSTP-Split-DNS"),
        ("X-CSTP-Split-Include: 0.0.0.0/33\r\n".to_owned(), "X-CSTP-Split-Include"),
        ("X-CSTP-Split-Include: 10.9.0.0/16\r\n".repeat(9_000), "more than"),
        ("X-CSTP-Split-Include: 10.9.0.0/16\r\n".repeat(100_000), "tunnel"),
        ("X-CSTP-Content-Encoding: lzs\r\n".to_owned(), "X-CSTP-Content-Encoding"),
        ("X-CSTP-Address: 10.77.0.10\r\n".to_owned(), "two different values"),
    ] {
        let refused = site.refuse(words, move |visit| {
            if visit.until_connect() {
                visit.tunnel(1400, &fields);
                visit.stall();
            }
        });
        if refused.is_none() {
            return;
        }
    }
    for (answer, words) in [
        ("HTTP/1.1 401 Cookie is not acceptable\r\n\r\n", "401"),
        ("HTTP/1.1 503 Service Unavailable\r\nX-Reason: draining \u{1b}[2J now\r\n\r\n", "draining"),
        ("HTTP/1.1 200 CONNECTED\r\n\r\n", "X-CSTP"),
        ("HTTP/1.0 200 OK\r\n\r\n", "tunnel"),
        ("STF\u{1}", "broke"),
    ] {
        let refused = site.refuse(words, move |visit| {
            if visit.until_connect() {
                visit.send(answer.as_bytes());
            }
        });
        if refused.is_none() {
            return;
        }
    }
}

/// ocserv sends a fatal alert right behind the answer with which it hangs up.
///
/// Covers: statement 21, statement 43
#[test]
fn what_stands_right_before_the_end_of_tls_is_heard() {
    let Some(site) = site() else { return };
    site.refuse("401", |visit| {
        if visit.until_connect() {
            visit.send_and_break(b"HTTP/1.1 401 Cookie is not acceptable\r\n\r\n");
        }
    });
    site.refuse("refused the credentials", |visit| {
        if visit.request().is_some() {
            visit.send_and_break(b"HTTP/1.1 401 Nobody\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let server = site.serve(PORT, |visit| {
        if visit.until_connect() {
            visit.tunnel(1400, "");
            visit.send_and_break(b"STF\x01\0\0\x05\0");
            visit.stall();
        }
    });
    let Some(client) = site.client("proxy", PORT) else { return };
    client.run().expect_failure("the server ended the session");
    assert_eq!(server.visits(), 1, "the client came back after a DISCONNECT");
}

/// Eight thousand routes and a default route are a tunnel like any other: what it may not touch stays untouched.
///
/// Covers: R62, R63, P-091
#[test]
fn many_routes_and_a_pushed_default_route_do_no_harm() {
    let Some(site) = site() else { return };
    let routes: String =
        (0..8_000).map(|n| format!("X-CSTP-Split-Include: 10.{}.{}.0/24\r\n", n / 250, n % 250)).collect();
    let ended = site.show(move |visit| {
        if visit.until_connect() {
            visit.tunnel(1400, &routes);
            visit.stall();
        }
    });
    let Some(ended) = ended else { return };
    assert!(ended.peak_kib < MAX_MEMORY_KIB && ended.took < SOON, "{} KiB, {:?}", ended.peak_kib, ended.took);
    assert!(ended.expect_success("show").contains("10.31.249.0/24"));

    // Not hidden among the routes of a split tunnel; a full tunnel has none.
    site.refuse("0.0.0.0/0 covers a whole family", |visit| {
        if visit.until_connect() {
            visit.tunnel(1400, "X-CSTP-Split-Include: 10.9.0.0/16\r\nX-CSTP-Split-Include: 0.0.0.0/0\r\n");
            visit.stall();
        }
    });
    let _server = site.serve(PORT, |visit| {
        if visit.until_connect() {
            visit.tunnel(1400, "X-CSTP-DNS: 127.0.0.1\r\n");
            visit.stall();
        }
    });
    // Neither loopback nor the link becomes the server's to reach, nor a name server there ours to ask.
    for (page, words) in [
        ("http://127.0.0.1:22/", "does not belong"),
        ("http://169.254.169.254/", "does not belong"),
        ("http://[::1]/", "does not belong"),
    ] {
        let Some(client) = site.client("get", PORT) else { return };
        client.argument(page).run().expect_failure(words);
    }
}

/// Covers: R8, R63, P-013
#[test]
fn frames_that_break_the_protocol_end_the_tunnel_and_a_growing_mtu_does_not() {
    let Some(site) = site() else { return };
    for garbage in [&b"GARBAGE!GARBAGE!"[..], b"STF\x01\xff\xff\x00\x00", b"STF\x01\x00\x02\x08\x00zz"] {
        let _server = site.serve(PORT, move |visit| {
            if visit.until_connect() {
                visit.tunnel(1400, "");
                visit.flood(garbage);
            }
        });
        let Some(client) = site.client("proxy", PORT) else { return };
        let ended = client.run();
        assert!(ended.peak_kib < MAX_MEMORY_KIB, "{} KiB", ended.peak_kib);
        ended.expect_failure("the server breaks the protocol");
    }
    // The largest packets of each connection, each larger than the one before.
    let server = site.serve(PORT, |visit| {
        if !visit.until_connect() {
            return;
        }
        let mtu: u16 = [1_280, 1_500, 9_000, 16_000][visit.number.min(3)];
        visit.tunnel(mtu, "");
        let mut packet = vec![0; usize::from(mtu)];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&mtu.to_be_bytes());
        (packet[8], packet[9]) = (64, 17);
        packet[16..20].copy_from_slice(&[10, 77, 0, 9]);
        for _ in 0..100 {
            visit.frame(0, &packet);
        }
        if visit.number >= 4 {
            visit.frame(5, b"");
            visit.stall();
        }
    });
    let Some(client) = site.client("proxy", PORT) else { return };
    let ended = client.run();
    assert!(ended.peak_kib < MAX_MEMORY_KIB, "{} KiB", ended.peak_kib);
    ended.expect_failure("the server ended the session");
    assert_eq!(server.visits(), 5);
}

/// One client for each step at which a server may fall silent, all at the same time.
///
/// Covers: R63, P-090
#[test]
fn a_server_that_falls_silent_at_any_step_is_given_up() {
    let Some(site) = site() else { return };
    type Script = fn(&mut Visit);
    let scripts: [(u16, &str, Script); 7] = [
        (1001, "does not answer within 60 s", |visit| visit.stall()),
        (1002, "does not answer within 60 s", |visit| {
            visit.request();
            visit.send(b"HTTP/1.1 200 OK\r\nContent-");
            visit.stall();
        }),
        (1003, "does not answer within 60 s", |visit| {
            visit.request();
            visit.trickle(b"HTTP/1.1 100 Continue\r\nX: y\r\n", Duration::from_secs(1));
        }),
        (1004, "does not answer within 60 s", |visit| {
            visit.request();
            visit.document(
                "<config-auth><auth id=\"main\"><form action=\"/\"><input type=\"text\" name=\"username\"/></form>\
                 </auth></config-auth>",
            );
            visit.stall();
        }),
        (1005, "no address within 20 s", |visit| {
            if visit.until_connect() {
                visit.stall();
            }
        }),
        (1006, "no address within 20 s", |visit| {
            if visit.until_connect() {
                visit.send(b"HTTP/1.1 200 CONNECTED\r\n");
                visit.trickle(b"X-CSTP-DNS: 10.0.0.1\r\n", Duration::from_millis(300));
            }
        }),
        (1007, "broke", |visit| {
            visit.request();
        }),
    ];
    let servers: Vec<Scripted> = scripts.iter().map(|&(port, _, script)| site.serve(port, script)).collect();
    // TCP that takes the connection and says nothing at all.
    let mute = site.network.server().with(|| TcpListener::bind(("0.0.0.0", 1000))).expect("the port is free");
    let wanted =
        scripts.iter().map(|&(port, words, _)| (port, words)).chain([(1000, "does not answer within 15 s")]);
    let running: Vec<_> =
        wanted.filter_map(|(port, words)| Some((port, words, site.client("show", port)?.start()))).collect();
    let limit = Duration::from_secs(75);
    for (port, words, client) in running {
        let ended = client.end();
        assert!(ended.took < limit, "step {port}: after {:?}", ended.took);
        ended.expect_failure(words);
    }
    drop((servers, mute));
}

/// A server that asks and asks without reading makes nothing grow.
///
/// Covers: R63
#[test]
fn questions_without_end_cost_no_memory() {
    let Some(site) = site() else { return };
    let _server = site.serve(PORT, |visit| {
        if visit.until_connect() {
            visit.tunnel(1400, "");
            let question = [&b"STF\x01\x05\xdc\x03\x00"[..], &[7; 1500]].concat();
            for _ in 0..20_000 {
                if !visit.send(&question) {
                    return;
                }
            }
            visit.frame(5, b"");
            visit.stall();
        }
    });
    let Some(client) = site.client("proxy", PORT) else { return };
    let ended = client.run();
    assert!(ended.peak_kib < MAX_MEMORY_KIB, "{} KiB", ended.peak_kib);
    ended.expect_failure("the tunnel ended");
}
