package mme;

import com.amazonaws.ml.mms.util.messages.ModelWorkerResponse;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.TimeUnit;

/**
 * The answer that a worker's thread waits for, in the place of WorkerThread.replies (MMS-31). The end of a connection
 * interrupts that thread. An answer that came just before is taken all the same; the interrupt stays, and ends the
 * thread's next wait.
 */
final class Replies extends ArrayBlockingQueue<ModelWorkerResponse> {
    private static final long serialVersionUID = 1L;

    private final transient Batch batch;

    /** Answers to the requests of {@code batch}. */
    Replies(Batch batch) {
        super(1);
        this.batch = batch;
    }

    @Override
    public ModelWorkerResponse poll(long timeout, TimeUnit unit) throws InterruptedException {
        ModelWorkerResponse reply;
        try {
            reply = super.poll(timeout, unit);
        } catch (InterruptedException e) {
            reply = poll();
            if (reply == null) {
                throw e;
            }
            Thread.currentThread().interrupt();
        }
        if (reply != null) {
            batch.isAnswered();
        }
        return reply;
    }
}
