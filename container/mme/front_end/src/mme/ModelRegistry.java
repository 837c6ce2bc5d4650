package mme;

import com.amazonaws.ml.mms.wlm.Model;
import java.util.concurrent.ConcurrentHashMap;

/**
 * The registered models by name, in the place of ModelManager.models.
 *
 * <p>A model is let in if its name and folder are allowed: where it has no worker (initial_workers=0), nobody else
 * asks. It gets what it asks for itself ({@link ServingProperties}).
 *
 * <p>A thread that is set upon one model removes none but that. MMS unregisters a model whose load has failed after
 * it has answered, by its name; by then somebody may have loaded another model by that name (MMS-3).
 */
final class ModelRegistry extends ConcurrentHashMap<String, Model> {
    private static final long serialVersionUID = 1L;
    private static final ThreadLocal<Model> ONLY = new ThreadLocal<>();

    private final transient LoadPolicy policy;
    private final transient ModelStatistics statistics;
    private final transient PatchedWorkLoadManager loads;
    private final transient Events events;

    ModelRegistry(LoadPolicy policy, ModelStatistics statistics, PatchedWorkLoadManager loads, Events events) {
        this.policy = policy;
        this.statistics = statistics;
        this.loads = loads;
        this.events = events;
    }

    /** From here on this thread removes no model of that name but this one. */
    static void removeOnly(Model model) {
        ONLY.set(model);
    }

    @Override
    public Model putIfAbsent(String name, Model model) {
        policy.checkName(name);
        policy.checkFolder(model.getModelDir().toPath());
        checkRoom(name);
        ServingProperties serving = new ServingProperties(model.getModelDir().toPath(), policy);
        serving.applyTo(model);
        boolean isOurs = policy.isDryRun(model.getModelDir().toPath());
        ModelRecord record = isOurs ? ModelStatistics.ofNobody() : statistics.of(name);
        RequestQueue.install(model, serving.queueSize(), record, events);
        loads.scaling().register(model, serving);
        Model existing = super.putIfAbsent(name, model);
        if (existing == null) {
            record.isRegistered(model, serving);
        }
        return existing;
    }

    /** Loads at the same time may all find the last place: one too many is of no harm. */
    private void checkRoom(String name) {
        if (policy.mostModels > 0 && size() >= policy.mostModels && !containsKey(name)) {
            throw new InsufficientMemoryException(
                    "There are " + size() + " models, which MME_MOST_MODELS says is the most. Unload others.");
        }
    }

    /** MMS does so once more when the launcher has started, and where it could not end it. */
    @Override
    public Model put(String name, Model model) {
        RequestQueue.of(model).reopen();
        return super.put(name, model);
    }

    @Override
    public Model remove(Object name) {
        Model only = ONLY.get();
        if (only != null && only.getModelName().equals(name)) {
            return remove(name, only) ? only : null;
        }
        Model removed = super.remove(name);
        if (removed != null) {
            hasGone(removed);
        }
        return removed;
    }

    @Override
    public boolean remove(Object name, Object model) {
        boolean isRemoved = super.remove(name, model);
        if (isRemoved) {
            hasGone((Model) model);
        }
        return isRemoved;
    }

    private void hasGone(Model model) {
        RequestQueue queue = RequestQueue.of(model);
        queue.close();
        queue.record().isUnregistered(loads.hasGone(model));
    }
}
