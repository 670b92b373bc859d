use super::*;

const LIMITS: Limits = Limits { time: Duration::from_secs(10), steps: 10_000 };

fn order_of(seed: u64) -> Vec<u32> {
    let sim = Sim::new(seed, TraceWish::Nothing);
    let order = Arc::new(Mutex::new(Vec::new()));
    for node in 0..8 {
        let (order, sim_of_task) = (order.clone(), sim.clone());
        sim.spawn(Who::Node(node), "task", TaskKind::Client, async move {
            sim_of_task.pause(Duration::from_millis(1)).await;
            lock(&order).push(node);
        });
    }
    assert_eq!(sim.run(LIMITS), Ended::Done);
    lock(&order).clone()
}

#[test]
fn a_seed_is_an_order_of_execution() {
    assert_eq!(order_of(1), order_of(1));
    assert!((2..20).any(|seed| order_of(seed) != order_of(1)));
}

#[test]
fn a_client_that_nothing_can_wake_is_reported_by_name() {
    let sim = Sim::new(1, TraceWish::Nothing);
    sim.spawn(Who::Node(3), "waits for ever", TaskKind::Client, std::future::pending());
    sim.spawn(Who::Node(3), "daemon", TaskKind::Daemon, std::future::pending());
    assert_eq!(sim.run(LIMITS), Ended::Stuck("node 3: waits for ever".into()));
    sim.tear_down();
}

#[test]
fn a_daemon_with_a_timer_does_not_hide_a_client_that_hangs() {
    let sim = Sim::new(1, TraceWish::Nothing);
    sim.spawn(Who::Node(1), "waits for ever", TaskKind::Client, std::future::pending());
    let daemon = sim.clone();
    sim.spawn(Who::Node(1), "flusher", TaskKind::Daemon, async move {
        loop {
            daemon.sleep(Duration::from_millis(100)).await;
        }
    });
    assert_eq!(sim.run(LIMITS), Ended::Late("node 1: waits for ever".into()));
    sim.tear_down();
}

#[test]
fn a_task_that_only_wakes_itself_is_reported_as_busy() {
    let sim = Sim::new(1, TraceWish::Nothing);
    sim.spawn(Who::Node(1), "spins", TaskKind::Client, async {
        std::future::poll_fn(|context| {
            context.waker().wake_by_ref();
            Poll::<()>::Pending
        })
        .await;
    });
    assert_eq!(sim.run(LIMITS), Ended::Busy("node 1: spins".into()));
    sim.tear_down();
}
