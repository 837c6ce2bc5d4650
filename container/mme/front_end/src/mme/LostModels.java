package mme;

import com.amazonaws.ml.mms.wlm.Model;
import com.amazonaws.ml.mms.wlm.ModelManager;
import com.amazonaws.ml.mms.wlm.WorkerThread;
import io.netty.handler.codec.http.HttpResponseStatus;
import java.lang.reflect.Field;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Models that were loaded and whose last worker has died (MMS-7). MMS starts workers again, after 1, 1, 2, 3, 5 …
 * seconds, for ever, while requests wait; here that has an end. A model is unloaded where
 *
 * <ul>
 *   <li>each of its workers has been refused (400, 500) {@value #TRIES} times in a row: its files have changed;
 *   <li>it has had no worker for {@value #PATIENCE_S} s, and each has failed as often: there is no memory for it, or
 *       something kills whatever comes;
 *   <li>it has had no worker for {@value #LONG_PATIENCE_S} s, and each has failed at least once: its loads hang.
 * </ul>
 *
 * <p>What waits is answered 503 then, what comes later 404: it can be loaded anew. Before, requests wait. All of
 * this happens when a worker ends, and once when the time is over.
 */
final class LostModels {
    private static final Logger LOGGER = LoggerFactory.getLogger(LostModels.class);
    private static final int TRIES = 3;
    private static final long PATIENCE_S = 12;
    private static final long LONG_PATIENCE_S = 30;
    private static final Field ENDS = Agent.field(WorkerThread.class, "backoffIdx");

    private final PatchedWorkLoadManager manager;
    private final boolean isActive;
    private final Set<Model> watched = ConcurrentHashMap.newKeySet();
    private final Map<Model, Long> lostSince = new ConcurrentHashMap<>(); // System.nanoTime
    private final Map<Model, Future<?>> timers = new ConcurrentHashMap<>(); // of those that are lost
    private final Map<Model, Integer> refusals = new ConcurrentHashMap<>(); // in a row

    LostModels(PatchedWorkLoadManager manager, boolean isActive) {
        this.manager = manager;
        this.isActive = isActive;
    }

    /** The model has been loaded for the first time. */
    void watch(Model model) {
        if (isActive) {
            watched.add(model);
            onWorkerEnded(model); // it may have ended since
        }
    }

    void forget(Model model) {
        watched.remove(model);
        onWorkerLoaded(model);
    }

    void onWorkerLoaded(Model model) {
        lostSince.remove(model);
        refusals.remove(model);
        Future<?> timer = timers.remove(model);
        if (timer != null) {
            timer.cancel(false); // it lets go of the model then
        }
    }

    void onLoadRefused(Model model, int status) {
        if (watched.contains(model) && status != HttpResponseStatus.INSUFFICIENT_STORAGE.code()) {
            refusals.merge(model, 1, Integer::sum);
        }
    }

    /**
     * Called in the thread of the worker, which MMS will start again. Whether others have the model is asked of the
     * record: MMS tells that one is loaded before its state says so.
     */
    void onWorkerEnded(Model model) {
        if (!watched.contains(model)) {
            return;
        }
        List<WorkerThread> workers = manager.getWorkers(model.getModelName());
        if (workers.isEmpty() || RequestQueue.of(model).record().get(ModelRecord.WORKERS) > 0) {
            return; // scaled to none, or others serve
        }
        long now = System.nanoTime();
        if (lostSince.putIfAbsent(model, now) == null) {
            Runnable look = () -> unloadIfHopeless(model);
            timers.put(
                    model, ModelManager.getInstance().getScheduler().schedule(look, LONG_PATIENCE_S, TimeUnit.SECONDS));
            if (!watched.contains(model)) {
                forget(model); // it was unloaded meanwhile
                return;
            }
        }
        unloadIfHopeless(model);
    }

    private void unloadIfHopeless(Model model) {
        Long since = lostSince.get(model);
        List<WorkerThread> workers = manager.getWorkers(model.getModelName());
        if (since == null || !watched.contains(model) || workers.isEmpty()) {
            return;
        }
        long lostS = TimeUnit.NANOSECONDS.toSeconds(System.nanoTime() - since);
        boolean isRefused = refusals.getOrDefault(model, 0) >= TRIES * workers.size();
        int fewestTries = workers.stream().mapToInt(LostModels::failedTries).min().getAsInt();
        boolean isOverdue =
                lostS >= PATIENCE_S && fewestTries >= TRIES || lostS >= LONG_PATIENCE_S && fewestTries >= 1;
        if (!isRefused && !isOverdue) {
            return; // the next worker that ends asks again
        }
        LOGGER.error("model {} has had no worker for {} s, and gets none: it is unloaded", model.getModelName(), lostS);
        lostSince.remove(model); // should this unload fail, there will be another
        PatchedWorkLoadManager.unregister(model);
    }

    /** Its worker says that it can be served no more. */
    void unload(Model model) {
        if (watched.contains(model)) {
            LOGGER.error("model {} has other files than it was loaded from: it is unloaded", model.getModelName());
            PatchedWorkLoadManager.unregister(model);
        }
    }

    /** How often in a row it has failed to come back: its ends, but for that of the worker that was loaded. */
    private static int failedTries(WorkerThread worker) {
        return (int) Agent.get(ENDS, worker) - 1;
    }
}
