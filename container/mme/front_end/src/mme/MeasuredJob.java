package mme;

import com.amazonaws.ml.mms.wlm.Job;
import io.netty.channel.ChannelHandlerContext;
import io.netty.handler.codec.http.HttpResponseStatus;
import java.util.Map;
import java.util.concurrent.atomic.AtomicInteger;

/** A request to a model, in the place of MMS's own Job: it says in the model's record what becomes of it. */
final class MeasuredJob extends Job {
    private static final int NEW = 0;
    private static final int WAITING = 1; // in the queue
    private static final int UNDER_WAY = 2; // out of it, and not answered
    private static final int ENDED = 3;

    private final ModelRecord record;
    private final long arrived; // System.nanoTime(), as below
    private volatile long sent; // to a worker, the last one; 0: to none
    private final AtomicInteger state = new AtomicInteger(NEW);

    MeasuredJob(Job job, ChannelHandlerContext client, ModelRecord record) {
        super(client, job.getModelName(), job.getCmd(), job.getPayload());
        this.record = record;
        arrived = System.nanoTime();
        record.onArrival(arrived);
    }

    void isWaiting() {
        moveTo(WAITING);
    }

    void isTaken() {
        moveTo(UNDER_WAY);
    }

    /** There was no room for it. MMS answers 503. */
    void isRefused() {
        if (moveTo(ENDED)) {
            record.onRefused();
        }
    }

    /** Its client has gone: it is out of the queue, and nobody answers it. */
    void isAbandoned() {
        if (moveTo(ENDED)) {
            record.onAbandoned();
        }
    }

    @Override
    public void setScheduled() {
        sent = System.nanoTime();
        super.setScheduled();
    }

    @Override
    public void response(
            byte[] body, CharSequence contentType, int status, String phrase, Map<String, String> headers) {
        isAnswered(status); // first: who has the answer finds it counted
        super.response(body, contentType, status, phrase, headers);
    }

    @Override
    public void sendError(HttpResponseStatus status, String error) {
        isAnswered(status.code());
        super.sendError(status, error);
    }

    private void isAnswered(int status) {
        if (moveTo(ENDED)) {
            record.onAnswered(status, arrived, sent, System.nanoTime());
        }
    }

    /** Returns whether it was elsewhere. */
    private boolean moveTo(int next) {
        int last = state.getAndSet(next);
        if (last == next) {
            return false;
        }
        count(last, -1);
        count(next, 1);
        return true;
    }

    private void count(int where, int requests) {
        if (where == WAITING) {
            record.addWaiting(requests);
        } else if (where == UNDER_WAY) {
            record.addUnderWay(requests);
        }
    }
}
