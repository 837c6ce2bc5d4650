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

    Replies() {
        super(1);
    }

    @Override
    public ModelWorkerResponse poll(long timeout, TimeUnit unit) throws InterruptedException {
        try {
            return super.poll(timeout, unit);
        } catch (InterruptedException e) {
            ModelWorkerResponse reply = poll();
            if (reply == null) {
                throw e;
            }
            Thread.currentThread().interrupt();
            return reply;
        }
    }
}
