//! The logs of the code under test, as events of the run's trace.

use std::cell::RefCell;
use std::fmt::{Debug, Write};
use std::sync::Once;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::executor::Sim;
use crate::trace::Who;

thread_local! {
    static RUN: RefCell<Option<Sim>> = const { RefCell::new(None) };
}

/// Sends this thread's logs to the run's trace while `body` runs.
pub fn while_tracing<T>(sim: &Sim, body: impl FnOnce() -> T) -> T {
    if !sim.is_tracing() {
        return body();
    }
    static SUBSCRIBE: Once = Once::new();
    SUBSCRIBE.call_once(|| {
        // Somebody else's subscriber is as good: then the logs are elsewhere.
        let _ = tracing::subscriber::set_global_default(ToTrace);
    });
    RUN.set(Some(sim.clone()));
    let result = body();
    RUN.set(None);
    result
}

struct ToTrace;

impl Subscriber for ToTrace {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        RUN.with_borrow(Option::is_some)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(format!("{} {}:", event.metadata().level(), event.metadata().target()));
        event.record(&mut line);
        RUN.with_borrow(|run| {
            if let Some(sim) = run {
                sim.event(Who::World, format_args!("log: {}", line.0));
            }
        });
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let name = match field.name() {
            "message" => String::new(),
            other => format!("{other}="),
        };
        let _ = write!(self.0, " {name}{value:?}");
    }
}
