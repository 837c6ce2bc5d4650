package mme;

import com.amazonaws.ml.mms.wlm.Model;
import com.amazonaws.ml.mms.wlm.ModelManager;
import com.amazonaws.ml.mms.wlm.WorkLoadManager;
import com.amazonaws.ml.mms.wlm.WorkerState;
import com.amazonaws.ml.mms.wlm.WorkerThread;
import io.netty.handler.codec.http.HttpResponseStatus;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.WeakHashMap;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.function.Function;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * How many workers each model has.
 *
 * <ul>
 *   <li>A load that says how many (initial_workers), a PUT, and SAGEMAKER_MODEL_SERVER_WORKERS are obeyed as MMS does.
 *   <li>Every other model begins with one worker, and gets what it has at least right after, as far as memory allows.
 *   <li>{@link #scale} is what the supervisor wants, within the model's bounds: Model.minWorkers and maxWorkers.
 * </ul>
 *
 * <p>A worker that is taken back has answered first (MMS-34). One that was added and does not come to serve, or has
 * died, is forgotten as long as the model has as many as it must: the supervisor decides again (MMS-35).
 */
final class WorkerScaling {
    private static final Logger LOGGER = LoggerFactory.getLogger(WorkerScaling.class);
    private static final Method ADD =
            Agent.method(
                    WorkLoadManager.class, "addThreads", List.class, Model.class, int.class, CompletableFuture.class);

    private final PatchedWorkLoadManager manager;
    private final LoadPolicy policy;
    private final Events events;
    private final Lists lists = new Lists();
    private final Map<WorkerThread, Turn> turns = new ConcurrentHashMap<>(); // of those whose thread runs
    private final Map<Model, ServingProperties> properties = Collections.synchronizedMap(new WeakHashMap<>());

    WorkerScaling(PatchedWorkLoadManager manager, LoadPolicy policy, Events events) {
        this.manager = manager;
        this.policy = policy;
        this.events = events;
        Agent.set(Agent.field(WorkLoadManager.class, "workers"), manager, lists);
    }

    /** MMS's lists of workers, by model, which are read while others change them: by GET /models/NAME (MMS-36). */
    private static final class Lists extends ConcurrentHashMap<String, List<WorkerThread>> {
        private static final long serialVersionUID = 1L;

        @Override
        public List<WorkerThread> computeIfAbsent(
                String name, Function<? super String, ? extends List<WorkerThread>> ignored) {
            return super.computeIfAbsent(name, key -> new CopyOnWriteArrayList<>());
        }
    }

    /** A model that nobody knows yet. */
    void register(Model model, ServingProperties serving) {
        properties.put(model, serving);
    }

    void startsRun(WorkerThread worker, Turn turn) {
        turns.put(worker, turn);
    }

    /** The thread of a worker has ended. MMS would start it again; one more than the model must have is given up. */
    void endsRun(Model model, WorkerThread worker, Turn turn) {
        turns.remove(worker, turn);
        if (!policy.autoscale || worker.getState() == WorkerState.WORKER_SCALED_DOWN) {
            return;
        }
        synchronized (model.getModelName()) {
            List<WorkerThread> workers = workersOf(model);
            boolean isExtra = workers.contains(worker) && workers.size() > Math.max(1, model.getMinWorkers());
            if (isExtra && workers.stream().anyMatch(each -> each != worker && isLoaded(each))) {
                forget(model, worker);
            }
        }
    }

    private static boolean isLoaded(WorkerThread worker) {
        return worker.getState() == WorkerState.WORKER_MODEL_LOADED;
    }

    private List<WorkerThread> workersOf(Model model) {
        return lists.getOrDefault(model.getModelName(), Collections.emptyList());
    }

    private static boolean isRegistered(Model model) {
        return ModelManager.getInstance().getModels().get(model.getModelName()) == model;
    }

    // ---- what is asked for ----

    /** The first workers of a model. {@code isGiven}: the request says how many. */
    CompletableFuture<HttpResponseStatus> begin(Model model, boolean isGiven) {
        ServingProperties serving = properties.get(model);
        if (isGiven || policy.areWorkersFixed || serving == null) {
            return asMms(model);
        }
        int least = serving.leastWorkers();
        model.setMinWorkers(least);
        model.setMaxWorkers(serving.mostWorkers());
        if (!policy.autoscale) {
            return asMms(model);
        }
        CompletableFuture<HttpResponseStatus> first = new CompletableFuture<>();
        synchronized (model.getModelName()) {
            add(model, 1, first);
        }
        if (least == 1) {
            return first;
        }
        return first.thenCompose(
                status ->
                        HttpResponseStatus.OK.equals(status)
                                ? addMore(model, least - 1).thenApply(ignored -> status)
                                : CompletableFuture.completedFuture(status));
    }

    /** A PUT has set the model's bounds; the least may be none (MMS-36). */
    CompletableFuture<HttpResponseStatus> change(Model model) {
        CompletableFuture<HttpResponseStatus> done = CompletableFuture.completedFuture(HttpResponseStatus.OK);
        synchronized (model.getModelName()) {
            int now = workersOf(model).size();
            if (now < model.getMinWorkers()) {
                done = asMms(model);
            } else {
                takeBack(model, now - model.getMaxWorkers(), false);
            }
        }
        events.onChange();
        return done;
    }

    private CompletableFuture<HttpResponseStatus> asMms(Model model) {
        try {
            return manager.changeAsMms(model);
        } finally {
            tell(model);
        }
    }

    /** The supervisor wants so many workers, of which those that are too many go if they are idle. Never throws. */
    void scale(String name, int wanted) {
        Model model = ModelManager.getInstance().getModels().get(name);
        if (model == null || !manager.isLoaded(model)) {
            return;
        }
        synchronized (model.getModelName()) {
            int now = workersOf(model).size();
            int count = Math.max(Math.max(1, model.getMinWorkers()), Math.min(wanted, model.getMaxWorkers()));
            if (count > now) {
                addMore(model, count - now);
            } else {
                takeBack(model, now - count, true);
            }
        }
    }

    // ---- what is done; with the lock on the model's name, which MMS takes too ----

    private void add(Model model, int count, CompletableFuture<HttpResponseStatus> done) {
        try {
            ADD.invoke(manager, lists.computeIfAbsent(model.getModelName(), null), model, count, done);
        } catch (InvocationTargetException e) {
            if (e.getCause() instanceof OutOfMemoryError) {
                throw (OutOfMemoryError) e.getCause(); // there is no thread
            }
            throw new IllegalStateException(e.getCause());
        } catch (IllegalAccessException e) {
            throw new LinkageError(ADD + " cannot be called", e); // it has been made accessible
        } finally {
            tell(model);
        }
    }

    /** Workers beyond the first: those that do not come to serve are forgotten. Never fails. */
    private CompletableFuture<Void> addMore(Model model, int count) {
        List<CompletableFuture<Void>> all = new ArrayList<>();
        synchronized (model.getModelName()) {
            for (int i = 0; i < count && isRegistered(model); i++) {
                List<WorkerThread> before = new ArrayList<>(workersOf(model));
                CompletableFuture<HttpResponseStatus> done = new CompletableFuture<>();
                try {
                    add(model, 1, done);
                } catch (OutOfMemoryError e) {
                    LOGGER.warn("no further worker for model {}: {}", model.getModelName(), e.getMessage());
                    done.complete(HttpResponseStatus.INSUFFICIENT_STORAGE);
                }
                List<WorkerThread> added = new ArrayList<>(workersOf(model));
                added.removeAll(before);
                all.add(done.thenAccept(status -> onAdded(model, added, status)));
            }
        }
        return CompletableFuture.allOf(all.toArray(new CompletableFuture<?>[0]));
    }

    /** Mostly in the thread of the added worker. */
    private void onAdded(Model model, List<WorkerThread> added, HttpResponseStatus status) {
        if (HttpResponseStatus.OK.equals(status)) {
            return;
        }
        LOGGER.info("model {} gets no further worker for now ({})", model.getModelName(), status.code());
        synchronized (model.getModelName()) {
            added.forEach(worker -> forget(model, worker));
        }
    }

    /** Ends a worker that has nothing under way, and will not be started again. */
    private void forget(Model model, WorkerThread worker) {
        if (workersOf(model).remove(worker)) {
            worker.shutdown();
            tell(model);
        }
    }

    /** Those first that do not serve, then those that are idle; the others when they have answered. */
    private void takeBack(Model model, int count, boolean isIdleOnly) {
        List<WorkerThread> workers = new ArrayList<>(workersOf(model));
        Collections.reverse(workers);
        int left = count;
        for (WorkerThread worker : workers) {
            if (left > 0 && !turns.containsKey(worker)) {
                forget(model, worker); // it waits to be started again
                left--;
            }
        }
        for (WorkerThread worker : workers) {
            Turn turn = turns.get(worker);
            if (left > 0 && turn != null && turn.leaveIfIdle()) {
                workersOf(model).remove(worker);
                left--;
            }
        }
        for (WorkerThread worker : workers) {
            Turn turn = turns.get(worker);
            if (left > 0 && !isIdleOnly && turn != null && workersOf(model).remove(worker)) {
                turn.leave();
                left--;
            }
        }
        tell(model);
    }

    private void tell(Model model) {
        ModelRecord record = RequestQueue.of(model).record();
        record.set(ModelRecord.WANTED_WORKERS, workersOf(model).size());
        record.set(ModelRecord.MIN_WORKERS, model.getMinWorkers());
        record.set(ModelRecord.MAX_WORKERS, model.getMaxWorkers());
    }
}
