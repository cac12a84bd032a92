//! What a stranger sees of the front: pages, health, refusals.

use super::rig::*;
use crate::auth::{Health, LoginConfig};

/// Covers: statement 17, P-034, P-039, P-042, R24
#[test]
fn unknown_paths_have_one_constant_answer() {
    let mut rig = Rig::password_only();
    let want = text(&responded(rig.get("/unknown", &[])));
    assert!(want.starts_with("HTTP/1.1 404 Not found\r\n") && want.contains("Content-Length: 50\r\n"));
    assert!(want.contains("X-Frame-Options: deny\r\n"));
    for path in [
        "/../etc/passwd",
        "/%2e%2e/etc/passwd",
        "/auth/",
        "/AUTH",
        "//",
        "/1/Linux/x",
        "/+CSCOE+/logon.html",
        "/+CSCOT+/translation-table?type=mst",
        "/dana-na/../",
        "/remote/fgt_lang?lang=x",
        "/profiles/x",
        "http://h/",
        "*",
    ] {
        assert_eq!(text(&responded(rig.get(path, &[]))), want, "{path}");
        let other = request("DELETE", path, &[], "");
        assert_eq!(text(&responded(rig.send(&other))), want, "{path}");
    }
}

/// Covers: P-042, R24
#[test]
fn a_wrong_method_on_a_known_path_is_a_405() {
    let mut rig = Rig::password_only();
    for (method, path) in [
        ("PUT", "/"),
        ("OPTIONS", "/auth"),
        ("TRACE", "/VPN"),
        ("POST", "/healthz"),
        ("POST", "/1/index.html"),
        ("HEAD", "/"),
    ] {
        let response = responded(rig.send(&request(method, path, &[], "")));
        assert_eq!((response.status(), response.closes()), (405, true), "{method} {path}");
    }
}

#[test]
fn the_static_pages_of_cisco_clients_are_there() {
    let mut rig = Rig::with(LoginConfig { methods: Vec::new(), ..LoginConfig::default() });
    for (path, want) in [
        ("/1/index.html", "<html></html>\n"),
        ("/1/Linux_64?x=y", "<html></html>\n"),
        ("/logout", "<html></html>\n"),
        ("/1/binaries/update.txt", "0,0,0000\n"),
        ("/1/VPNManifest.xml", "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<vpn rev=\"1.0\">\n</vpn>\n"),
    ] {
        let page = responded(rig.get(path, &[]));
        assert_eq!((page.status(), body(&page).as_str()), (200, want), "{path}");
    }
}

/// Covers: P-040, R28
#[test]
fn the_health_page_needs_no_login_keeps_no_state_and_follows_the_drain() {
    let mut rig = Rig::password_only();
    for _ in 0..600 {
        rig.wait(1);
        let page = responded(rig.get("/healthz", &[]));
        assert_eq!((page.status(), body(&page).as_str()), (200, "ok\n"));
        let page = responded(rig.get("/", &[("User-Agent", "ELB-HealthChecker/2.0")]));
        assert_eq!(page.status(), 200);
        assert!(body(&page).contains("<message>I am still alive!!</message>"));
        assert_eq!(responded(rig.get("/", &[])).status(), 200);
    }
    assert_eq!(rig.desk.bans().points(rig.address), 0);
    assert_eq!((rig.desk.stats().conversations, rig.desk.poll_timeout()), (0, None));
    for health in [Health::Draining, Health::Full] {
        rig.desk.set_health(health);
        assert_eq!(responded(rig.get("/healthz", &[])).status(), 503);
        assert_eq!(responded(rig.get("/", &[("User-Agent", "probe")])).status(), 503);
    }
}

/// Covers: R28
#[test]
fn a_draining_server_takes_no_new_logins_and_a_full_one_does() {
    let mut rig = Rig::password_only();
    rig.desk.set_health(Health::Full);
    assert_eq!(responded(rig.post("", &init(""))).status(), 200);
    rig.desk.set_health(Health::Draining);
    let refused = responded(rig.post("", &init("")));
    assert_eq!((refused.status(), refused.closes()), (503, true));
}

/// Covers: P-034
#[test]
fn a_vpn_client_with_a_name_of_its_own_is_not_taken_for_a_probe() {
    let mut rig = Rig::password_only();
    let form = responded(rig.get("/", &[("User-Agent", "somebody"), ("X-Transcend-Version", "1")]));
    assert!(body(&form).contains("name=\"username\""));
    let form = responded(rig.get("/auth", &[("User-Agent", "somebody")]));
    assert!(body(&form).contains("name=\"username\""));
}

/// Covers: P-036, R26
#[test]
fn a_body_that_cannot_be_read_is_a_400() {
    let mut rig = Rig::password_only();
    for bad in ["<!DOCTYPE a><a/>", "<a/>", "<config-auth>", "username=%zz", "username=a&username=b"] {
        let response = responded(rig.post("", bad));
        assert_eq!((response.status(), response.closes()), (400, true), "{bad}");
        assert_eq!(body(&response), "");
    }
}

/// Covers: P-035, R25
#[test]
fn nothing_that_the_client_says_comes_back() {
    let mut rig = Rig::with_groups();
    let marker = "zq&lt;b&gt;&#13;&#10;X-Evil: 1";
    let inner = format!("<auth><username>{marker}</username></auth><group-select>{marker}</group-select>");
    let form = responded(rig.post("", &reply(&inner)));
    let context = context_in(&form);
    let again = rig.fail(&context);
    let groups = responded(rig.post("", &init(&format!("<group-select>{marker}</group-select>"))));
    for response in [form, again, groups] {
        assert!(
            !text(&response).contains("zq") && !text(&response).contains("X-Evil"),
            "{}",
            text(&response)
        );
    }
}
