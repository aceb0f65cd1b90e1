//! The terminal of a live view: a screen of its own, given back as it was however the view ends.

use super::frame::{Line, Size, Tone};
use std::fmt::Write as _;
use std::io::{self, Write};

/// Where nobody says how large the terminal is.
const USUAL: Size = Size { columns: 80, rows: 24 };
/// Another screen, without a cursor, on which a line that is too long ends at the edge.
const OPEN: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const CLOSE: &str = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l";

/// The screen while it is ours.
pub(super) struct Screen {
    /// How the terminal treated what is typed.
    before: Option<libc::termios>,
}

impl Screen {
    /// Takes the screen. What is typed is not shown on it, and Ctrl-C ends the view.
    pub(super) fn open() -> io::Result<Self> {
        let screen = Self { before: quiet() };
        write(OPEN)?;
        Ok(screen)
    }

    /// Shows these lines and nothing else.
    pub(super) fn draw(&mut self, lines: &[Line]) -> io::Result<()> {
        write(&drawing(lines))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nobody is left to hear of a terminal that has gone away.
        let _ = write(CLOSE);
        if let Some(before) = &self.before {
            set(before);
        }
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// What a terminal is told to show these lines from the top.
fn drawing(lines: &[Line]) -> String {
    let mut text = String::from("\x1b[H");
    for (number, line) in lines.iter().enumerate() {
        let tone = match line.tone {
            Tone::Plain => "",
            Tone::Heading => "\x1b[1m",
            Tone::Bad => "\x1b[31m",
        };
        let start = if number > 0 { "\r\n" } else { "" };
        // Writing to a text does not fail.
        let _ = write!(text, "{start}{tone}{}\x1b[0m\x1b[K", line.text);
    }
    text + "\x1b[J"
}

/// How large the terminal is now.
#[expect(
    unsafe_code,
    reason = "there is no safe call for it among our dependencies; the argument stands inside"
)]
pub(super) fn size() -> Size {
    let mut window = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one `winsize` to the place that it is given, which lives until after the call.
    let told = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut window) } == 0;
    match (usize::from(window.ws_col), usize::from(window.ws_row)) {
        (columns @ 1.., rows @ 1..) if told => Size { columns, rows },
        _ => USUAL,
    }
}

/// Lets the terminal not show what is typed, and not stop the view half-way. Returns how it was before.
#[expect(
    unsafe_code,
    reason = "there is no safe call for it among our dependencies; the argument stands inside"
)]
fn quiet() -> Option<libc::termios> {
    let mut before = std::mem::MaybeUninit::<libc::termios>::uninit();
    // SAFETY: tcgetattr writes one `termios` to the place that it is given, which lives until after the call.
    let told = unsafe { libc::tcgetattr(libc::STDIN_FILENO, before.as_mut_ptr()) } == 0;
    if !told {
        return None;
    }
    // SAFETY: the call has succeeded, so that all of it is written.
    let before = unsafe { before.assume_init() };
    let mut quiet = before;
    quiet.c_lflag &= !libc::ECHO;
    quiet.c_cc[libc::VSUSP] = 0;
    set(&quiet);
    Some(before)
}

#[expect(
    unsafe_code,
    reason = "there is no safe call for it among our dependencies; the argument stands inside"
)]
fn set(how: &libc::termios) {
    // SAFETY: tcsetattr reads one `termios`, which lives until after the call. That it fails changes nothing.
    let _ = unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, how) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawing_covers_what_was_there_before_and_scrolls_nothing() {
        let line = |tone, text: &str| Line { tone, text: text.into() };
        let drawn = drawing(&[line(Tone::Heading, "a"), line(Tone::Bad, "b")]);
        assert_eq!(drawn, "\x1b[H\x1b[1ma\x1b[0m\x1b[K\r\n\x1b[31mb\x1b[0m\x1b[K\x1b[J");
        assert_eq!(drawing(&[]), "\x1b[H\x1b[J");
    }
}
