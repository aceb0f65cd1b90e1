//! `flotilla up`: the control plane until Ctrl-C.

use crate::app::{App, AppConfig};
use crate::cli::args::Up;
use crate::cli::exit::Failure;
use crate::signals::Termination;
use flotilla_protocol::ErrorCode;
use flotilla_protocol::message::Settings;
use std::io::IsTerminal;
use std::time::Duration;

/// Runs the control plane.
pub fn run(options: Up) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(ErrorCode::Internal, format!("the async runtime does not start: {e}")))?;
    let config = AppConfig {
        dir: options.dir,
        http: options.http,
        mqtt: options.mqtt,
        names: options.names,
        device_validity: Duration::from_secs(options.certificate_s),
        settings: Settings {
            probation_s: options.probation_s,
            telemetry_interval_s: options.telemetry_s,
            ..Settings::default()
        },
    };
    let termination = {
        let _inside = runtime.enter();
        Termination::listen().map_err(|e| Failure::new(ErrorCode::Internal, e))?
    };
    let dir = config.dir.clone();
    let app = runtime
        .block_on(App::start(config))
        .map_err(|e| Failure::new(e.code(), crate::error_text::with_causes(&e)))?;
    println!("HTTP API and console  {}", app.http_url());
    println!("MQTT broker (TLS)     {}", app.mqtt_address());
    println!("administrator token   {}", app.token_file().display());
    if std::io::stdout().is_terminal() {
        println!("open the console      {}", app.login_url());
    } else {
        // What is not a terminal is kept somewhere, and an address that logs in is a secret.
        println!("open the console      flotilla login --dir {}", dir.display());
    }
    runtime.block_on(async {
        termination.wait().await;
        app.shutdown().await;
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    Ok(())
}
