package mme;

import com.amazonaws.ml.mms.wlm.WorkerThread;

/**
 * Whether a worker's thread has something to do, and whether it is to end. A worker that is taken back ends between two
 * batches: who takes it back and the thread that takes the next batch decide under one lock (MMS-34).
 */
final class Turn {
    private final WorkerThread worker;
    private boolean isIdle; // between two batches
    private boolean isLeaving; // as soon as it is idle
    private boolean hasLeft;

    Turn(WorkerThread worker) {
        this.worker = worker;
    }

    /** Called by the worker's thread, before it waits for its next batch. */
    synchronized void onIdle() {
        isIdle = true;
        if (isLeaving) {
            end();
        }
    }

    /** Called by the worker's thread when it has a request in hand. Returns whether it may keep it. */
    synchronized boolean take() {
        if (hasLeft) {
            return false;
        }
        isIdle = false;
        return true;
    }

    /** Ends the worker, at once if it is idle, else when it has answered. */
    synchronized void leave() {
        isLeaving = true;
        if (isIdle) {
            end();
        }
    }

    /** Ends the worker if it is idle. Returns whether it was. */
    synchronized boolean leaveIfIdle() {
        if (!isIdle || hasLeft) {
            return false;
        }
        end();
        return true;
    }

    private void end() {
        if (!hasLeft) {
            hasLeft = true;
            worker.shutdown(); // closes its connection and interrupts its thread, which waits for a batch, or is this one
        }
    }
}
