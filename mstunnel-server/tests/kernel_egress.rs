//! The kernel's egress in network namespaces of its own: real packets through a real TUN device.
//!
//! ```text
//! test process --ip netns exec--> gateway namespace           outside namespace
//!                                 mst0   eth0 192.0.2.1 ------- eth0 192.0.2.9   UDP echo on 9000
//!                                 (TUN)       2001:db8::1            2001:db8::9
//! ```
//!
//! A test makes the two namespaces and runs itself again inside of the first one (`MSTUNNEL_ROLE` says
//! so). The echo answers with the source address that it saw. Root is needed: without it a test says
//! that it was skipped, and fails when `CI=true`.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too, fail by a panic")]

mod kernel_egress {
    pub(super) mod packets;
    pub(super) mod world;
}

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use kernel_egress::packets::{echo_request, payload, udp};
use kernel_egress::world::{self, Gateway, POOL4, POOL6, QUIET, config};
use mstunnel_proto::packet::offload::{Coalescer, Push};
use mstunnel_server::egress::{EgressError, Fault, KernelEgress, Offloads, device_is_gone};

const CLIENT: &str = "10.8.0.5";
const CLIENT6: &str = "fd00:8::5";

/// Covers: R46
#[test]
fn clients_appear_under_the_outside_address_of_the_server() {
    world::run("clients_appear_under_the_outside_address_of_the_server", || {
        let gateway = Gateway::open(config());
        let seen = gateway.ask(&udp(CLIENT, 4000, "192.0.2.9", 9000, b"?"), CLIENT).expect("an IPv4 answer");
        let seen: SocketAddr = seen.parse().unwrap();
        assert_eq!(seen.ip().to_string(), "192.0.2.1");
        assert_ne!(seen.port(), 4000, "the client must not choose the outside port");
        assert!((10240..=32767).contains(&seen.port()), "{seen}");
        let seen =
            gateway.ask(&udp(CLIENT6, 4000, "2001:db8::9", 9000, b"?"), CLIENT6).expect("an IPv6 answer");
        assert_eq!(seen.parse::<SocketAddr>().unwrap().ip().to_string(), "2001:db8::1");
        gateway.send(&echo_request(CLIENT, "192.0.2.9"));
        assert!(gateway.receives_for(CLIENT), "no ping through the masquerade");
    });
}

#[test]
fn routed_mode_shows_the_clients_own_address_and_lets_hosts_begin() {
    world::run("routed_mode_shows_the_clients_own_address_and_lets_hosts_begin", || {
        let mut config = config();
        config.masquerade = false;
        let gateway = Gateway::open(config);
        world::outside_routes_to_the_pools();
        let seen = gateway.ask(&udp(CLIENT, 4000, "192.0.2.9", 9000, b"?"), CLIENT).expect("an answer");
        assert_eq!(seen, "10.8.0.5:4000");
        world::outside_sends_to("10.8.0.7:99");
        assert!(gateway.receives_for("10.8.0.7"), "a host may begin a flow in routed mode");
        world::outside_sends_to("[fd00:8::7]:99");
        assert!(gateway.receives_for("fd00:8::7"));
    });
}

#[test]
fn packets_pass_without_offloads_too() {
    world::run("packets_pass_without_offloads_too", || {
        let mut config = config();
        config.offload = false;
        let gateway = Gateway::open(config);
        assert_eq!(gateway.queues[0].offloads(), Offloads::None);
        gateway.ask(&udp(CLIENT, 4000, "192.0.2.9", 9000, b"?"), CLIENT).expect("an IPv4 answer");
        gateway.ask(&udp(CLIENT6, 4000, "2001:db8::9", 9000, b"?"), CLIENT6).expect("an IPv6 answer");
    });
}

#[test]
fn a_super_packet_is_the_packets_that_it_stands_for_both_ways() {
    world::run("a_super_packet_is_the_packets_that_it_stands_for_both_ways", || {
        let mut config = config();
        config.masquerade = false;
        let gateway = Gateway::open(config);
        let offloads = gateway.queues[0].offloads();
        assert_ne!(offloads, Offloads::None, "every kernel with IFF_VNET_HDR has those of TCP");
        if offloads == Offloads::Tcp {
            eprintln!("skipped: a kernel before 6.2 has no super-packets of datagrams");
            return;
        }
        world::outside_routes_to_the_pools();
        let mut coalescer = Coalescer::new(true);
        for _ in 0..5 {
            let packet = udp(CLIENT6, 4000, "2001:db8::9", 9000, &[b'?'; 100]);
            assert_eq!(coalescer.push(&packet), Push::Kept);
        }
        coalescer.close();
        let joined = coalescer.poll_due().expect("five packets of one flow");
        assert_eq!(joined.packets, 5);
        gateway.queues[0].try_send_super(joined.bytes).unwrap();
        for answer in 0..5 {
            assert!(gateway.receives_for(CLIENT6), "{answer} of 5 answers");
        }

        world::outside_sends_burst_to("[fd00:8::5]:99");
        for packet in 0..10 {
            let packet = gateway.receive_for(CLIENT6).unwrap_or_else(|| panic!("{packet} of 10 packets"));
            assert_eq!(packet[48..], [7; 100], "a hundred bytes behind the headers");
            assert_eq!(payload(&packet).len(), 100);
        }
        assert_eq!(gateway.left_of_read(), 0);
        world::outside_sends_burst_to("[fd00:8::5]:99");
        assert!(gateway.receives_for(CLIENT6));
        assert_eq!(gateway.left_of_read(), 9, "all ten in one read");
    });
}

/// Covers: P-065, R42
#[test]
fn a_client_reaches_no_other_client_and_it_is_the_table_that_says_so() {
    world::run("a_client_reaches_no_other_client_and_it_is_the_table_that_says_so", || {
        let gateway = Gateway::open(config());
        let across = udp(CLIENT, 4000, "10.8.0.6", 4001, b"psst");
        let across6 = udp(CLIENT6, 4000, "fd00:8::6", 4001, b"psst");
        gateway.send(&across);
        gateway.send(&across6);
        assert!(gateway.stays_quiet());
        // The same packets pass without the table, so that the silence above was its doing.
        world::gateway_runs("nft delete table inet mstunnel");
        gateway.send(&across);
        assert!(gateway.receives_for("10.8.0.6"));
        gateway.send(&across6);
        assert!(gateway.receives_for("fd00:8::6"));
        // And the check brings it back.
        assert_eq!(gateway.egress.check().unwrap(), [Fault::TableMissing]);
        gateway.send(&across);
        gateway.send(&across6);
        assert!(gateway.stays_quiet());
        assert_eq!(gateway.egress.check().unwrap(), []);
    });
}

/// Covers: P-074, R49
#[test]
fn a_packet_for_a_client_from_outside_is_dropped_even_in_its_flow() {
    world::run("a_packet_for_a_client_from_outside_is_dropped_even_in_its_flow", || {
        let gateway = Gateway::open(config());
        world::outside_routes_to_the_pools();
        gateway.ask(&udp(CLIENT, 4000, "192.0.2.9", 9000, b"?"), CLIENT).expect("the flow is open");
        world::outside_sends_to("10.8.0.5:4000");
        world::outside_sends_to("[fd00:8::5]:4000");
        world::outside_sends_to("10.8.0.1:4000");
        assert!(gateway.stays_quiet());
        assert!(world::rule_counted("prerouting", "probe"), "the probe rule counted nothing");
    });
}

/// Covers: P-066, R43, R42
#[test]
fn a_client_reaches_no_service_of_the_server_but_its_ping() {
    world::run("a_client_reaches_no_service_of_the_server_but_its_ping", || {
        let gateway = Gateway::open(config());
        let service = UdpSocket::bind("[::]:5300").unwrap();
        service.set_read_timeout(Some(QUIET)).unwrap();
        for server in ["10.8.0.1", "192.0.2.1"] {
            gateway.send(&udp(CLIENT, 4000, server, 5300, b"query"));
        }
        gateway.send(&udp(CLIENT6, 4000, "fd00:8::1", 5300, b"query"));
        gateway.send(&udp(CLIENT6, 4000, "2001:db8::1", 5300, b"query"));
        assert!(service.recv(&mut [0; 64]).is_err(), "a service of the server was reached");
        gateway.send(&echo_request(CLIENT, "192.0.2.1"));
        assert!(gateway.stays_quiet());
        gateway.send(&echo_request(CLIENT, "10.8.0.1"));
        assert!(gateway.receives_for(CLIENT));
        gateway.send(&echo_request(CLIENT6, "fd00:8::1"));
        assert!(gateway.receives_for(CLIENT6));
    });
}

/// Covers: R43
#[test]
fn a_listed_service_of_the_server_is_reached() {
    world::run("a_listed_service_of_the_server_is_reached", || {
        let mut config = config();
        config.permitted =
            ["192.0.2.1", "192.0.2.0/30", "2001:db8::1"].map(|text| text.parse().unwrap()).to_vec();
        let gateway = Gateway::open(config);
        let service = UdpSocket::bind("0.0.0.0:5300").unwrap();
        service.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        gateway.send(&udp(CLIENT, 4000, "192.0.2.1", 5300, b"query"));
        assert_eq!(service.recv(&mut [0; 64]).unwrap(), 5);
    });
}

/// Covers: P-066, R43: a name server that clients are told is open at the ports of DNS, on this host and on a metadata
/// service's address as well.
#[test]
fn a_told_name_server_is_reached_at_the_ports_of_dns_only() {
    world::run("a_told_name_server_is_reached_at_the_ports_of_dns_only", || {
        world::outside_runs("ip addr add 169.254.169.254/32 dev eth0");
        world::gateway_runs("ip route add 169.254.169.254/32 dev eth0");
        let mut config = config();
        config.dns =
            ["192.0.2.1", "169.254.169.254", "2001:db8::1"].map(|text| text.parse().unwrap()).to_vec();
        let gateway = Gateway::open(config);
        let listen = |port: u16| UdpSocket::bind(("::", port)).unwrap();
        let (names, service) = (listen(53), listen(5300));
        service.set_read_timeout(Some(QUIET)).unwrap();
        names.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        for (client, server) in [(CLIENT, "192.0.2.1"), (CLIENT6, "2001:db8::1")] {
            gateway.send(&udp(client, 4000, server, 5300, b"query"));
            gateway.send(&udp(client, 4000, server, 53, b"query"));
            assert_eq!(names.recv(&mut [0; 64]).unwrap(), 5, "{server}");
        }
        assert!(service.recv(&mut [0; 64]).is_err(), "another service of the host was reached");
        gateway.send(&udp(CLIENT, 4000, "169.254.169.254", 9000, b"credentials?"));
        assert!(gateway.stays_quiet(), "the metadata service was reached");
        // A closed port says so, where a fence would be silent.
        gateway.send(&udp(CLIENT, 4000, "169.254.169.254", 53, b"name?"));
        assert!(gateway.receives_for(CLIENT));
    });
}

/// Covers: R82: two servers on one host would take each other's fences away.
#[test]
fn the_table_of_another_interface_is_left_alone_while_that_exists() {
    world::run("the_table_of_another_interface_is_left_alone_while_that_exists", || {
        let first = Gateway::open(config());
        let mut second = config();
        second.interface = "mst1".to_owned();
        second.addresses = vec![("10.9.0.1".parse().unwrap(), "10.9.0.0/24".parse().unwrap())];
        let refused = KernelEgress::open(second.clone()).map(drop);
        assert!(matches!(refused, Err(EgressError::TableInUse { name }) if name == "mst0"));
        assert_eq!(first.egress.check().unwrap(), []);
        drop(first);
        // What a killed run of another name left is no obstacle.
        let mut killed = world::spawn_holder();
        killed.kill().unwrap();
        killed.wait().unwrap();
        assert!(world::table_exists());
        KernelEgress::open(second).unwrap().close().unwrap();
    });
}

/// Covers: P-066, R43
#[test]
fn cloud_metadata_and_link_local_stay_closed_even_with_a_link_local_pool() {
    world::run("cloud_metadata_and_link_local_stay_closed_even_with_a_link_local_pool", || {
        world::outside_runs("ip addr add 169.254.169.254/32 dev eth0");
        world::outside_runs("ip addr add 100.100.100.200/32 dev eth0");
        world::gateway_runs("ip route add 169.254.169.254/32 dev eth0");
        world::gateway_runs("ip route add 100.100.100.200/32 dev eth0");
        let mut config = config();
        config.addresses[0] = ("169.254.0.1".parse().unwrap(), "169.254.0.0/16".parse().unwrap());
        let gateway = Gateway::open(config);
        let client = "169.254.0.5";
        assert!(gateway.ask(&udp(client, 4000, "192.0.2.9", 9000, b"?"), client).is_some(), "the pool works");
        for target in ["169.254.169.254", "100.100.100.200", "127.0.0.1", "224.0.0.251", "169.254.0.6"] {
            gateway.send(&udp(client, 4000, target, 9000, b"?"));
        }
        gateway.send(&udp(CLIENT6, 4000, "fe80::9", 9000, b"?"));
        assert!(gateway.stays_quiet());
    });
}

/// Covers: R41
#[test]
fn a_source_outside_the_pool_does_not_leave_the_interface() {
    world::run("a_source_outside_the_pool_does_not_leave_the_interface", || {
        let gateway = Gateway::open(config());
        world::outside_runs("ip route add 10.77.0.0/16 via 192.0.2.1");
        gateway.send(&udp("10.77.0.5", 4000, "192.0.2.9", 9000, b"?"));
        gateway.send(&udp("192.0.2.44", 4000, "192.0.2.9", 9000, b"?"));
        gateway.send(&udp("2001:db8:77::5", 4000, "2001:db8::9", 9000, b"?"));
        assert!(gateway.stays_quiet());
        assert!(world::rule_counted("clients", "spoofed"), "the spoof rule counted nothing");
    });
}

/// Covers: P-110, R79
#[test]
fn a_killed_run_leaves_nothing_that_stops_the_next_one() {
    world::run("a_killed_run_leaves_nothing_that_stops_the_next_one", || {
        let mut killed = world::spawn_holder();
        killed.kill().unwrap();
        killed.wait().unwrap();
        assert!(world::table_exists(), "the table outlives a killed process");
        // What an administrator or an older version may have left: a persistent device with addresses.
        world::gateway_runs("ip tuntap add mst0 mode tun");
        world::gateway_runs("ip addr add 10.99.0.1/24 dev mst0");
        world::gateway_runs("ip link set mst0 up");
        let gateway = Gateway::open(config());
        assert!(!world::output("ip addr show dev mst0").contains("10.99.0.1"));
        assert!(gateway.ask(&udp(CLIENT, 4000, "192.0.2.9", 9000, b"?"), CLIENT).is_some());
        assert_eq!(gateway.egress.check().unwrap(), []);
    });
}

#[test]
fn nothing_is_left_after_close_and_foreign_tables_are_untouched() {
    world::run("nothing_is_left_after_close_and_foreign_tables_are_untouched", || {
        world::gateway_runs("nft add table inet docker_like");
        world::gateway_runs(
            "nft add chain inet docker_like f { type filter hook forward priority 0 ; policy drop ; }",
        );
        let egress = KernelEgress::open(config()).unwrap();
        let warned = egress.warnings().iter().any(|warning| warning.contains("docker_like"));
        assert!(warned, "{:?}", egress.warnings());
        egress.close().unwrap();
        assert!(!world::output("ip link").contains("mst0"));
        assert!(!world::output("ip route").contains("10.8.0"));
        assert_eq!(world::output("nft list tables").trim(), "table inet docker_like");
        drop(KernelEgress::open(config()).unwrap());
        assert!(!world::table_exists(), "drop cleans up too");
    });
}

/// Covers: P-121, R82
#[test]
fn a_link_set_down_is_repaired_and_a_deleted_one_is_noticed() {
    world::run("a_link_set_down_is_repaired_and_a_deleted_one_is_noticed", || {
        let gateway = Gateway::open(config());
        world::gateway_runs("ip link set mst0 down");
        world::gateway_runs("ip addr flush dev mst0");
        world::gateway_runs("sysctl -qw net.ipv4.ip_forward=0");
        let faults = gateway.egress.check().unwrap();
        assert!(faults.contains(&Fault::LinkDown), "{faults:?}");
        assert!(faults.contains(&Fault::AddressMissing("10.8.0.1".parse().unwrap())), "{faults:?}");
        assert!(faults.contains(&Fault::ForwardingOff), "{faults:?}");
        assert!(gateway.ask(&udp(CLIENT, 4000, "192.0.2.9", 9000, b"?"), CLIENT).is_some(), "not repaired");
        assert!(gateway.ask(&udp(CLIENT6, 4000, "2001:db8::9", 9000, b"?"), CLIENT6).is_some());
        // One thing that is wrong keeps nothing else from being put right.
        world::gateway_runs("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
        world::gateway_runs("nft delete table inet mstunnel");
        let faults = gateway.egress.check().unwrap();
        assert!(faults.contains(&Fault::TableMissing), "{faults:?}");
        assert!(faults.contains(&Fault::AddressMissing("fd00:8::1".parse().unwrap())), "{faults:?}");
        assert_eq!(gateway.egress.check().unwrap(), []);
        world::gateway_runs("ip link del mst0");
        assert!(matches!(gateway.egress.check(), Err(EgressError::Gone { .. })));
        let error = gateway.wait_for_error();
        assert!(device_is_gone(&error), "{error}");
    });
}

#[test]
fn a_name_in_use_is_refused_with_what_to_do() {
    world::run("a_name_in_use_is_refused_with_what_to_do", || {
        let first = KernelEgress::open(config()).unwrap();
        let second = KernelEgress::open(config()).unwrap_err();
        assert!(matches!(second, EgressError::InUse { .. }), "{second}");
        assert!(world::table_exists(), "the refused one must not take the first one's table away");
        first.close().unwrap();
        world::gateway_runs("ip link add mst0 type veth peer name mst1");
        let taken = KernelEgress::open(config()).unwrap_err();
        assert!(matches!(taken, EgressError::NameTaken { .. }), "{taken}");
        assert!(world::output("ip link").contains("mst0"), "the foreign interface is still there");
    });
}

#[test]
fn a_pool_that_holds_an_address_of_the_host_is_refused_and_leaves_nothing() {
    world::run("a_pool_that_holds_an_address_of_the_host_is_refused_and_leaves_nothing", || {
        let mut config = config();
        config.addresses[0] = ("192.0.2.254".parse().unwrap(), "192.0.2.0/24".parse().unwrap());
        let error = KernelEgress::open(config).unwrap_err();
        assert!(error.to_string().contains("the address of interface eth0"), "{error}");
        assert!(!world::output("ip link").contains("mst0"));
        assert!(!world::table_exists());
    });
}

#[test]
fn without_the_capability_the_refusal_names_it() {
    world::run("without_the_capability_the_refusal_names_it", || {
        let said = world::open_without_capability();
        assert!(said.contains("CAP_NET_ADMIN"), "{said}");
    });
}

#[test]
fn every_queue_carries_packets() {
    world::run("every_queue_carries_packets", || {
        let mut config = config();
        config.queues = 3;
        let gateway = Gateway::open(config);
        assert_eq!(gateway.queues.len(), 3);
        for queue in 0..3 {
            let packet = udp(CLIENT, 5000 + queue, "192.0.2.9", 9000, b"?");
            gateway.queues[usize::from(queue)].try_send(&packet).unwrap();
            let answer = gateway.receive_for(CLIENT).expect("an answer on some queue");
            assert!(payload(&answer).starts_with("192.0.2.1:"));
        }
        assert_eq!(world::output("ip -o link show mst0").matches("mtu 1400").count(), 1);
        assert!(world::output("ip -6 addr show dev mst0").contains(POOL6.0));
        assert!(world::output("ip -4 addr show dev mst0").contains(POOL4.0));
    });
}

/// The two processes that a test starts in a namespace; nothing when run as a test.
#[test]
fn role() {
    world::play_role();
}
