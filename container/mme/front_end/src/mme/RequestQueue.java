package mme;

import com.amazonaws.ml.mms.wlm.Job;
import com.amazonaws.ml.mms.wlm.Model;
import io.netty.channel.ChannelHandlerContext;
import io.netty.handler.codec.http.HttpResponseStatus;
import java.lang.reflect.Field;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.WeakHashMap;
import java.util.concurrent.LinkedBlockingDeque;
import java.util.concurrent.TimeUnit;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The requests that wait for a worker of one model, in the place of MMS's own queue. Everybody in it is answered:
 * when the model is unregistered, those who wait, and whoever is put back later, get 503 (MMS-2). Who has hung up
 * is not served, and takes no place (MMS-10).
 */
final class RequestQueue extends LinkedBlockingDeque<Job> {
    private static final long serialVersionUID = 1L;
    private static final Logger LOGGER = LoggerFactory.getLogger(RequestQueue.class);
    private static final Field QUEUES = Agent.field(Model.class, "jobsDb");
    private static final Field LOCK = Agent.field(Model.class, "lock");
    private static final Field CLIENT = Agent.field(Job.class, "ctx");

    private final transient Set<Job> triedAgain =
            Collections.synchronizedSet(Collections.newSetFromMap(new WeakHashMap<>()));
    private final transient BatchLock batchLock = new BatchLock(() -> !isEmpty());
    private final String modelName;
    private final int capacity; // for those that come; who is put back has its place already
    private final transient ModelRecord record;
    private final transient Events events;
    private volatile boolean isClosed;

    private RequestQueue(String modelName, int capacity, ModelRecord record, Events events) {
        this.modelName = modelName;
        this.capacity = capacity;
        this.record = record;
        this.events = events;
    }

    /** Gives the model, which nobody knows yet, a queue of this kind. */
    @SuppressWarnings("unchecked")
    static void install(Model model, int capacity, ModelRecord record, Events events) {
        RequestQueue queue = new RequestQueue(model.getModelName(), capacity, record, events);
        ((Map<String, LinkedBlockingDeque<Job>>) Agent.get(QUEUES, model)).put(Model.DEFAULT_DATA_QUEUE, queue);
        Agent.set(LOCK, model, queue.batchLock);
    }

    @SuppressWarnings("unchecked")
    static RequestQueue of(Model model) {
        Map<String, LinkedBlockingDeque<Job>> queues = (Map<String, LinkedBlockingDeque<Job>>) Agent.get(QUEUES, model);
        return (RequestQueue) queues.get(Model.DEFAULT_DATA_QUEUE);
    }

    /** What is known of the model's requests. */
    ModelRecord record() {
        return record;
    }

    /** The model is unregistered. */
    void close() {
        isClosed = true;
        answerAll();
    }

    /** MMS has put the model back, because it could not end its launcher. */
    void reopen() {
        isClosed = false;
    }

    @Override
    public boolean offer(Job job) {
        MeasuredJob measured = new MeasuredJob(job, client(job), record);
        measured.isWaiting(); // first: a worker may have it before we go on
        if (!offerWithinCapacity(measured)) {
            measured.isRefused();
            if (Connection.current() != null) {
                Connection.current().isRefusedForNow();
            }
            return false;
        }
        batchLock.onRequest();
        if (record.isShortOfWorkers()) {
            events.onWaiting();
        }
        if (Connection.current() != null) {
            Connection.current().waits(this, measured);
        }
        if (isClosed) {
            answerAll();
        }
        return true;
    }

    private synchronized boolean offerWithinCapacity(Job job) {
        return size() < capacity && super.offer(job);
    }

    /** MMS has not even asked for room: the model has no worker. */
    void refuse() {
        record.onArrival(System.nanoTime());
        record.onRefused();
    }

    /** The client has hung up. */
    void giveUp(MeasuredJob job) {
        if (remove(job)) {
            job.isAbandoned();
        }
    }

    /** A worker that is stopped puts back what it had taken. */
    @Override
    public void addFirst(Job job) {
        ((MeasuredJob) job).isWaiting();
        super.addFirst(job); // its place is kept: the queue itself has no end
        batchLock.onRequest();
        if (isClosed) {
            answerAll();
        }
    }

    /** A worker that has ended has not seen these: they are first again, in their order. */
    void putBack(List<Job> jobs) {
        for (int i = jobs.size() - 1; i >= 0; i--) {
            addFirst(jobs.get(i));
        }
    }

    @Override
    public Job poll(long timeout, TimeUnit unit) throws InterruptedException {
        Job job = super.poll(timeout, unit);
        while (job != null && hasHungUp(job)) {
            ((MeasuredJob) job).isAbandoned();
            job = super.poll(timeout, unit);
        }
        if (job == null) {
            return null;
        }
        PatchedWorkLoadManager.Run run = PatchedWorkLoadManager.currentRun();
        if (run != null && !run.mayTake()) {
            super.addFirst(job); // it is still waiting
            if (isClosed) {
                answerAll();
            }
            throw new InterruptedException("the worker is taken back");
        }
        ((MeasuredJob) job).isTaken();
        return job;
    }

    /**
     * Workers have ended before they began these. Each goes to the next worker, once: it may be what ends them, by its
     * size.
     */
    void giveAnotherTry(List<Job> jobs) {
        for (int i = jobs.size() - 1; i >= 0; i--) {
            Job job = jobs.get(i);
            if (triedAgain.add(job)) {
                addFirst(job);
            } else {
                job.sendError(HttpResponseStatus.INTERNAL_SERVER_ERROR, "Worker died.");
            }
        }
    }

    private static boolean hasHungUp(Job job) {
        ChannelHandlerContext client = client(job);
        return client != null && !client.channel().isActive();
    }

    private static ChannelHandlerContext client(Job job) {
        return (ChannelHandlerContext) Agent.get(CLIENT, job);
    }

    private void answerAll() {
        int answered = 0;
        for (Job job = poll(); job != null; job = poll()) {
            job.sendError(HttpResponseStatus.SERVICE_UNAVAILABLE, "The model was unloaded.");
            answered++;
        }
        if (answered > 0) {
            LOGGER.info("model {} was unloaded: {} waiting requests are answered 503", modelName, answered);
        }
    }
}
