package mme;

import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

/**
 * Wakes the supervisor's loop that gives models workers (supervisor/scaling_loop.py): a byte in the named pipe
 * agent.events says that it should look. It rests where nothing waits, and looks often for a second after each.
 */
final class Events {
    private static final String PIPE = Agent.PRIVATE_FOLDER + "/agent.events";
    private static final long PAUSE_NS = TimeUnit.MILLISECONDS.toNanos(500); // less than what the loop looks on for

    private final OutputStream pipe; // null: nobody listens
    private final AtomicLong next = new AtomicLong(System.nanoTime());

    private Events(OutputStream pipe) {
        this.pipe = pipe;
    }

    static Events open(LoadPolicy policy) throws IOException {
        return new Events(policy.autoscale ? new FileOutputStream(PIPE) : null);
    }

    /** A request waits for a worker. */
    void onWaiting() {
        if (pipe == null) {
            return;
        }
        long due = next.get();
        long now = System.nanoTime();
        if (now - due >= 0 && next.compareAndSet(due, now + PAUSE_NS)) {
            say();
        }
    }

    /** Somebody else than the supervisor has changed how many workers a model has or may have. */
    void onChange() {
        if (pipe != null) {
            say();
        }
    }

    private void say() {
        try {
            pipe.write(1);
        } catch (IOException e) {
            Agent.fail(e); // both ends are open as long as the supervisor lives
        }
    }
}
