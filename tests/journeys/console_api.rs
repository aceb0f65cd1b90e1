//! The console's way in: one-time codes, cookies, other sites.

use flotilla_tests::Plane;
use serde_json::{Value, json};

/// One request with these headers: status, headers and body.
fn send(
    plane: &Plane,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> (u16, ureq::http::HeaderMap, String) {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0).build().into();
    let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", plane.http));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut response = agent.run(request.body(String::new()).unwrap()).unwrap();
    let body = response.body_mut().read_to_string().unwrap();
    (response.status().as_u16(), response.headers().clone(), body)
}

#[test]
fn a_login_address_works_once_and_leaves_a_strict_cookie() {
    let plane = Plane::start();
    let login: Value = plane.cli(&["login"]);
    let path = login["url"].as_str().unwrap().strip_prefix(&plane.http).unwrap().to_owned();

    let (status, headers, _) = send(&plane, "GET", &path, &[]);
    assert_eq!(status, 303);
    let cookie = headers["set-cookie"].to_str().unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let session = cookie.split(';').next().unwrap();
    assert_eq!(send(&plane, "GET", &path, &[]).0, 401, "the code works once");

    assert_eq!(send(&plane, "GET", "/api/v1/overview", &[("cookie", session)]).0, 200);
    assert_eq!(send(&plane, "GET", "/api/v1/overview", &[("cookie", "flotilla_session=guess")]).0, 401);
    let claim =
        |origin| send(&plane, "POST", "/api/v1/login-codes", &[("cookie", session), ("origin", origin)]).0;
    assert_eq!(claim("https://evil.example"), 403, "another site may not use the cookie");
    assert_eq!(claim(&plane.http), 200);
    assert_eq!(
        send(&plane, "GET", "/", &[("host", "evil.example")]).0,
        403,
        "a rebound name reaches nothing"
    );
    let (status, headers, page) = send(&plane, "GET", "/", &[]);
    assert_eq!(status, 200);
    assert!(page.contains("/console/app.js"));
    assert!(headers["content-security-policy"].to_str().unwrap().contains("frame-ancestors 'none'"));
}

#[test]
fn mutations_stand_in_the_audit_trail_without_secrets() {
    let plane = Plane::start();
    let (status, claim) = plane.post("/api/v1/claims", json!({}));
    assert_eq!(status, 201);
    let _dataset: Value = plane.cli(&["dataset", "import", "digits"]);
    let trail: Value = plane.cli(&["audit"]);
    let text = trail.to_string();
    for action in ["device:claim", "dataset:import"] {
        assert!(text.contains(action), "{action} is not in {text}");
    }
    assert!(!text.contains(claim["code"].as_str().unwrap()));
    assert!(!text.contains(&plane.token()));
}
