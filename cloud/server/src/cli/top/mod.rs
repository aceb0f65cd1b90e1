//! `flotilla fleet top`: the whole fleet on a terminal, anew each second.

mod frame;
mod terminal;

use super::args::{Fleet, FleetTop};
use super::client::{Client, ClientError};
use super::commands::{Done, Out, client};
use super::exit::Failure;
use crate::http::api::FleetSummaryView;
use crate::signals::Termination;
use flotilla_protocol::ErrorCode;
use frame::{Rates, Size, frame};
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use terminal::Screen;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// Time between two questions.
const PAUSE: Duration = Duration::from_secs(1);
/// An answer that takes longer is missed.
const PATIENCE: Duration = Duration::from_secs(3);
/// Columns of what is printed once.
const COLUMNS: usize = 120;

/// Runs a command.
pub(super) fn run(command: Fleet, out: &Out) -> Done {
    let Fleet::Top(FleetTop { once, target }) = command;
    let client = client(&target)?;
    if !out.json && !once && std::io::stdout().is_terminal() {
        return watch(client);
    }
    out.show(&ask(&client)?, |view| {
        let size = Size { columns: COLUMNS, rows: usize::MAX };
        frame(view, None, None, size).iter().for_each(|line| println!("{}", line.text));
    })
}

fn ask(client: &Client) -> Result<FleetSummaryView, ClientError> {
    client.get("/api/v1/fleet")
}

fn watch(client: Client) -> Done {
    let failed = |e: std::io::Error| Failure::new(ErrorCode::Internal, format!("the view cannot start: {e}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let first = ask(&client)?;
    let outcome = runtime.block_on(live(client, first)).map_err(failed);
    // A question that is still open is not waited for.
    runtime.shutdown_background();
    outcome
}

/// Shows one frame after the other until somebody ends it.
async fn live(client: Client, first: FleetSummaryView) -> std::io::Result<()> {
    let ended = Termination::listen()?.wait();
    tokio::pin!(ended);
    let mut resized = signal(SignalKind::window_change())?;
    let mut ticks = tokio::time::interval(PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut screen = Screen::open()?;
    let (mut shown, mut rates, mut problem) = (first, None, None::<String>);
    let mut asking: Option<(JoinHandle<_>, Instant)> = None;
    loop {
        screen.draw(&frame(&shown, rates, problem.as_deref(), terminal::size()))?;
        let answer = async {
            match &mut asking {
                Some((asked, _)) => asked.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = &mut ended => return Ok(()),
            _ = resized.recv() => {}
            answer = answer => {
                asking = None;
                match answer {
                    Ok(Ok(now)) => {
                        rates = Rates::between(&shown, &now);
                        (shown, problem) = (now, None);
                    }
                    Ok(Err(error)) => problem = Some(ClientError::to_string(&error)),
                    Err(error) => problem = Some(error.to_string()),
                }
            }
            _ = ticks.tick() => match &asking {
                Some((_, since)) if since.elapsed() >= PATIENCE => {
                    problem = Some(format!("no answer for {} s", since.elapsed().as_secs()));
                }
                Some(_) => {}
                None => {
                    let client = client.clone();
                    asking = Some((tokio::task::spawn_blocking(move || ask(&client)), Instant::now()));
                }
            }
        }
    }
}
