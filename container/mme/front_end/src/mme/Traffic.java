package mme;

import java.util.concurrent.atomic.AtomicInteger;

/** The requests of all connections: how many are under way, and whether more are let in. */
final class Traffic {
    private final AtomicInteger inFlight = new AtomicInteger();
    private volatile boolean draining;

    /** The head of a request has arrived. Returns whether it may be served. */
    boolean begin() {
        inFlight.incrementAndGet();
        return !draining; // after counting: a drain that has begun meanwhile sees it
    }

    void end() {
        inFlight.decrementAndGet();
    }

    /** Requests that are not answered, from the first byte of their body to the last of the answer's. */
    int inFlight() {
        return inFlight.get();
    }

    void drain() {
        draining = true;
    }

    boolean isDraining() {
        return draining;
    }
}
