"""
The MuJoCo model, written from code: table, objects, cameras and a WidowX 250s of primitives.

Link lengths, limits and efforts come from arm.py; link masses are Interbotix' figures, rounded.
Objects are generic bodies: the world gives them shape, size and colour per scene, so the model is
compiled once.
"""

from qwen_vla_ros.sim import arm

OBJECT_MASS = 0.06  # kg
ARM, OBJECT, TABLE = 1, 2, 4  # collision bits

# Stiffness (Nm/rad or N/m) and damping (Nms/rad or Ns/m) of each servo.
_SERVO = {
    'waist': (500, 12),
    'shoulder': (800, 16),
    'elbow': (500, 9),
    'forearm_roll': (40, 0.7),
    'wrist_angle': (120, 1.8),
    'wrist_rotate': (25, 0.4),
    'left_finger': (800, 12),
}

SCENE_CAMERA = {'position': (0.86, 0.0, 0.62), 'target': (0.265, 0.0, 0.05), 'fovy': 31.0}
WRIST_CAMERA = {'position': (0.005, 0.0, 0.075), 'tilt': 0.50, 'fovy': 62.0}

_DARK, _METAL = '0.10 0.10 0.11 1', '0.30 0.31 0.33 1'


def tabletop_xml(timestep_s: float) -> str:
    """Return the MJCF text of the whole world."""
    objects = ''.join(
        f"""
    <body name="object{i}" pos="{0.25 + 0.12 * i} 0 0.0225">
      <joint name="object{i}" type="free" damping="0.0003"/>
      <geom name="object{i}" type="box" size="0.0225 0.0225 0.0225" mass="{OBJECT_MASS}"
        contype="{OBJECT}" conaffinity="{OBJECT | TABLE}" condim="6"
        friction="0.9 0.01 0.002" material="object"/>
    </body>"""
        for i in range(3)
    )
    return f"""
<mujoco model="widowx_tabletop">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{timestep_s}" integrator="implicitfast" cone="elliptic"/>
  <visual>
    <quality shadowsize="0" offsamples="0"/>
    <global offwidth="1280" offheight="960"/>
    <map znear="0.01" zfar="20"/>
    <headlight ambient="0.35 0.35 0.35" diffuse="0.1 0.1 0.1" specular="0 0 0"/>
  </visual>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" rgb1="0.78 0.80 0.82"
      rgb2="0.55 0.57 0.60" width="64" height="384"/>
    <texture name="table" type="2d" builtin="flat" mark="random" random="0.04"
      rgb1="1 1 1" rgb2="1 1 1" markrgb="0.86 0.86 0.86" width="256" height="256"/>
    <material name="table" texture="table" texrepeat="4 4" rgba="0.6 0.6 0.55 1"
      specular="0" reflectance="0"/>
    <material name="object" specular="0.15" shininess="0.2"/>
  </asset>
  <default>
    <default class="arm">
      <geom contype="{ARM}" conaffinity="{OBJECT | TABLE}" rgba="{_DARK}" friction="0.8"
        group="2"/>
      <joint damping="0.1" armature="0.02"/>
    </default>
  </default>
  <worldbody>
    <light name="lamp" pos="0.6 0.2 1.4" dir="-0.2 -0.1 -1" directional="true"
      diffuse="0.6 0.6 0.6" specular="0.1 0.1 0.1" castshadow="false"/>
    <camera name="ego" pos="0.86 0 0.62"/>
    <geom name="table" type="box" pos="0.25 0 -0.02" size="0.55 0.6 0.02" material="table"
      contype="{TABLE}" conaffinity="0" friction="0.9 0.01 0.002"/>
    <geom name="floor" type="plane" pos="0 0 -0.7" size="4 4 0.1" rgba="0.42 0.40 0.38 1"
      contype="0" conaffinity="0"/>{objects}{_arm_xml()}
  </worldbody>
  <equality>
    <joint joint1="right_finger" joint2="left_finger" polycoef="0 -1 0 0 0"/>
  </equality>
  <actuator>{_servo_xml()}
  </actuator>
</mujoco>
"""


def _arm_xml() -> str:
    """Return the nested bodies of the arm, base first."""
    elbow_x, elbow_z = arm.ELBOW_OFFSET
    return f"""
    <body name="base_link" childclass="arm" gravcomp="1">
      <geom type="box" pos="-0.02 0 0.012" size="0.09 0.075 0.012"/>
      <geom type="cylinder" pos="0 0 0.045" size="0.045 0.03"/>
      <body name="shoulder_link" pos="0 0 {arm.WAIST_HEIGHT}" gravcomp="1">
        {_joint('waist', '0 0 1')}
        <geom type="cylinder" pos="0 0 0.01" size="0.04 0.012" mass="0.24" rgba="{_METAL}"/>
        <geom type="box" pos="0 0 {arm.SHOULDER_RISE}" size="0.025 0.042 0.028" mass="0.24"/>
        <body name="upper_arm_link" pos="0 0 {arm.SHOULDER_RISE}" gravcomp="1">
          {_joint('shoulder', '0 1 0')}
          <geom type="capsule" fromto="0 0 0 0 0 {elbow_z}" size="0.022" mass="0.33"/>
          <geom type="capsule" fromto="0 0 {elbow_z} {elbow_x} 0 {elbow_z}" size="0.022"
            mass="0.10"/>
          <body name="upper_forearm_link" pos="{elbow_x} 0 {elbow_z}" gravcomp="1">
            {_joint('elbow', '0 1 0')}
            <geom type="cylinder" fromto="0 -0.032 0 0 0.032 0" size="0.024" mass="0.06"
              rgba="{_METAL}"/>
            <geom type="capsule" fromto="0 0 0 {arm.UPPER_FOREARM} 0 0" size="0.020"
              mass="0.175"/>
            <body name="lower_forearm_link" pos="{arm.UPPER_FOREARM} 0 0" gravcomp="1">
              {_joint('forearm_roll', '1 0 0')}
              <geom type="box" pos="0.033 0 0" size="0.040 0.020 0.020" mass="0.22"/>
              <body name="wrist_link" pos="{arm.LOWER_FOREARM} 0 0" gravcomp="1">
                {_joint('wrist_angle', '0 1 0')}
                <geom type="cylinder" fromto="0 -0.026 0 0 0.026 0" size="0.021" mass="0.03"
                  rgba="{_METAL}"/>
                <geom type="box" pos="0.032 0 0" size="0.030 0.018 0.016" mass="0.055"/>
                {_hand_xml()}
              </body>
            </body>
          </body>
        </body>
      </body>
    </body>"""


def _hand_xml() -> str:
    """Return gripper, camera, tip and the two fingers."""
    return f"""<body name="gripper_link" pos="{arm.WRIST_LENGTH} 0 0" gravcomp="1">
                  {_joint('wrist_rotate', '1 0 0')}
                  <geom type="box" pos="0.022 0 0" size="0.026 0.024 0.018" mass="0.073"/>
                  <geom type="box" pos="0.055 0 0" size="0.008 0.052 0.011" mass="0.038"
                    rgba="{_METAL}"/>
                  <geom type="box" pos="0.000 0 0.048" size="0.010 0.016 0.030" mass="0.02"/>
                  <camera name="cam_right_wrist" pos="0.005 0 0.075"/>
                  <site name="tip" pos="{arm.TIP_OFFSET} 0 0" size="0.002" rgba="0 0 0 0"/>
                  {_finger_xml('left_finger', -1, arm.LOWER[6], arm.UPPER[6])}
                  {_finger_xml('right_finger', 1, -arm.UPPER[6], -arm.LOWER[6])}
                </body>"""


def _finger_xml(name: str, inward: int, lower: float, upper: float) -> str:
    """Return one sliding finger; its pad ends 3 mm beyond the tip frame."""
    return f"""<body name="{name}_link" pos="{arm.FINGERS_OFFSET} 0 0" gravcomp="1">
                    <joint name="{name}" type="slide" axis="0 1 0" range="{lower} {upper}"
                      damping="2" armature="0.05"
                      actuatorfrcrange="-{arm.EFFORT[6]} {arm.EFFORT[6]}"/>
                    <geom type="box" pos="0.0128 {inward * 0.008} 0" size="0.0178 0.005 0.009"
                      mass="0.016" rgba="0.16 0.16 0.17 1"/>
                  </body>"""


def _joint(name: str, axis: str) -> str:
    """Return one arm joint with its real range and effort."""
    i = arm.JOINT_NAMES.index(name)
    return (
        f'<joint name="{name}" axis="{axis}" range="{arm.LOWER[i]} {arm.UPPER[i]}" '
        f'actuatorfrcrange="-{arm.EFFORT[i]} {arm.EFFORT[i]}"/>'
    )


def _servo_xml() -> str:
    """Return a stiffness and a damping actuator a joint: ctrl is [8 positions, 8 velocities]."""
    servo = {**_SERVO, 'right_finger': _SERVO['left_finger']}
    stiffness = (f'<position joint="{name}" kp="{kp}"/>' for name, (kp, _) in servo.items())
    damping = (f'<velocity joint="{name}" kv="{kv}"/>' for name, (_, kv) in servo.items())
    return '\n    '.join(['', *stiffness, *damping])
